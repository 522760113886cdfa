// Package disktest has disks for tests: real file systems that fill, fail, and lose
// their power. [Trial] looks at what a program has kept after a power cut.
//
// It needs root, loop devices and ext4's tools, and fails without them.
package disktest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Disk is a file that holds an ext4 file system, mounted. It may be used by one goroutine
// at a time.
type Disk struct {
	// Dir is where it is mounted.
	Dir string

	t testing.TB
	// image is the file, and device the loop device; empty when the disk is closed.
	image, device string
}

const diskSize = 64 << 20

// New makes a disk of 64 MiB and mounts it in a folder. It is gone when the test ends.
func New(t testing.TB, dir string) *Disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskSize); err != nil {
		t.Fatal(err)
	}
	// All of it is written now: nothing is left for a thread to do in between.
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	return open(t, image, dir)
}

// open mounts a disk that is there, and removes it when the test ends.
func open(t testing.TB, image, dir string) *Disk {
	t.Helper()
	d := &Disk{t: t, image: image, Dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d.device = command(t, "losetup", "--find", "--show", image)
	t.Cleanup(d.Close)
	d.mount()
	return d
}

// mount mounts the disk. With an error it becomes one that can only be read.
func (d *Disk) mount() {
	d.t.Helper()
	command(d.t, "mount", "-t", "ext4", "-o", "errors=remount-ro", d.device, d.Dir)
}

// Close unmounts the disk and removes it.
func (d *Disk) Close() {
	d.t.Helper()
	if d.device == "" {
		return
	}
	_ = exec.Command("umount", d.Dir).Run()
	command(d.t, "losetup", "--detach", d.device)
	d.device = ""
	_ = os.Remove(d.image)
}

// Remount changes between ro and rw.
func (d *Disk) Remount(mode string) {
	d.t.Helper()
	command(d.t, "mount", "-o", "remount,"+mode, d.Dir)
}

// Fail makes the disk one that can only be read, as Linux does with one that has
// errors, whoever has files of it open.
func (d *Disk) Fail() {
	d.t.Helper()
	if err := os.WriteFile("/sys/fs/ext4/"+filepath.Base(d.device)+"/trigger_fs_error", []byte("for a test"), 0o200); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "witness"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		d.t.Fatalf("the disk takes a file: %v", err)
	}
}

// Mend makes a disk that has failed a good one again, as soon as nobody has files of it
// open.
func (d *Disk) Mend() {
	d.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); exec.Command("umount", d.Dir).Run() != nil; {
		if time.Now().After(deadline) {
			d.t.Fatal("the disk is in use all the time")
		}
		<-time.After(10 * time.Millisecond) // there is nothing else to wait on
	}
	_ = exec.Command("e2fsck", "-fy", d.device).Run() // its status tells what was mended
	d.mount()
}

// Fill leaves no room, until Empty.
func (d *Disk) Fill() {
	d.t.Helper()
	f, err := os.Create(d.filler())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
}

// Empty gives the room back that Fill has taken.
func (d *Disk) Empty() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *Disk) filler() string { return filepath.Join(d.Dir, "filler") }

// afterPowerCut returns the disk that a power cut would leave, at one moment, with its
// journal replayed. What waits in the memory of the mounted file system is not there:
// nothing is flushed. It can only be read.
func (d *Disk) afterPowerCut() *Disk {
	d.t.Helper()
	image := d.image + ".after"
	for range 20 {
		before := d.writes()
		command(d.t, "cp", "--sparse=always", d.image, image)
		if d.writes() == before { // else the copy is of no single moment
			after := open(d.t, image, image+".mounted")
			after.Remount("ro")
			return after
		}
	}
	d.t.Fatal("the disk does not come to rest")
	return nil
}

// writes returns how many writes the disk has seen; it waits for those under way.
func (d *Disk) writes() string {
	d.t.Helper()
	for {
		data, err := os.ReadFile("/sys/block/" + filepath.Base(d.device) + "/stat")
		if err != nil {
			d.t.Fatal(err)
		}
		fields := strings.Fields(string(data))
		if len(fields) < 9 {
			d.t.Fatalf("odd statistics: %s", data)
		}
		if fields[8] == "0" {
			return fields[4] + " " + fields[6]
		}
		<-time.After(time.Millisecond) // there is nothing else to wait on
	}
}

// command runs a tool that the test cannot do without, and returns what it says.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
