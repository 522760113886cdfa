package endurance

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Disk is a file that holds an ext4 file system. It needs root and loop devices.
type Disk struct {
	// Image is the file, Dir where it is mounted, and Device the loop device; empty
	// while it is not mounted.
	Image, Dir, Device string

	t testing.TB
}

const diskSize = 64 << 20

// NewDisk makes a disk of 64 MiB and mounts it in a folder. It is gone when the test
// ends.
func NewDisk(t testing.TB, dir string) *Disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskSize); err != nil {
		t.Fatal(err)
	}
	// All of it is written now: nothing is left for a thread to do in between.
	Command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	return OpenDisk(t, image, dir)
}

// OpenDisk mounts a disk that is there, and removes it when the test ends.
func OpenDisk(t testing.TB, image, dir string) *Disk {
	t.Helper()
	d := &Disk{t: t, Image: image, Dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.Mount()
	return d
}

// Mount mounts the disk. With an error it becomes one that can only be read.
func (d *Disk) Mount() {
	d.t.Helper()
	d.Device = Command(d.t, "losetup", "--find", "--show", d.Image)
	Command(d.t, "mount", "-t", "ext4", "-o", "errors=remount-ro", d.Device, d.Dir)
}

// Unmount takes the disk away, if it is there.
func (d *Disk) Unmount() {
	d.t.Helper()
	if d.Device == "" {
		return
	}
	_ = exec.Command("umount", d.Dir).Run()
	Command(d.t, "losetup", "--detach", d.Device)
	d.Device = ""
}

// Close unmounts the disk and removes it.
func (d *Disk) Close() {
	d.t.Helper()
	d.Unmount()
	_ = os.Remove(d.Image)
}

// Remount changes between ro and rw.
func (d *Disk) Remount(mode string) {
	d.t.Helper()
	Command(d.t, "mount", "-o", "remount,"+mode, d.Dir)
}

// Fail makes the disk one that can only be read, as Linux does with one that has
// errors, whoever has files of it open.
func (d *Disk) Fail() {
	d.t.Helper()
	if err := os.WriteFile("/sys/fs/ext4/"+filepath.Base(d.Device)+"/trigger_fs_error", []byte("for a test"), 0o200); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "witness"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		d.t.Fatalf("the disk takes a file: %v", err)
	}
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

// Command runs a tool that the test cannot do without, and returns what it says.
func Command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
