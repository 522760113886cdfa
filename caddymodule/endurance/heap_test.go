//go:build endurance

package endurance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(heapMeter{}) }

// heapMeter is a part of Caddy's administration, in the Caddy of these tests only, that
// watches the heap of its own process every millisecond by runtime/metrics.
type heapMeter struct{}

// heapPeak is what it saw, in octets.
type heapPeak struct {
	// Idle is the heap behind a garbage collection, before.
	Idle int64
	// Objects is the most that the heap had, with garbage that was not collected yet,
	// and Live the most that a garbage collection left.
	Objects, Live int64
}

// CaddyModule returns the Caddy module information.
func (heapMeter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.heap_meter", New: func() caddy.Module { return heapMeter{} }}
}

var heap struct {
	watch                sync.Once
	idle, objects, liven atomic.Int64
}

// Routes are a call that begins anew, and one that tells.
func (heapMeter) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: "/heap/begin", Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
			heap.watch.Do(func() { go watchHeap() })
			for range 3 { // finalizers want more than one
				runtime.GC()
			}
			objects, _ := readHeap(heapSamples())
			heap.idle.Store(objects)
			heap.objects.Store(0)
			heap.liven.Store(0)
			return nil
		})},
		{Pattern: "/heap/peak", Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			runtime.GC() // what is live at this moment counts, too
			return json.NewEncoder(w).Encode(heapPeak{heap.idle.Load(), heap.objects.Load(), heap.liven.Load()})
		})},
	}
}

func heapSamples() []metrics.Sample {
	return []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}}
}

func readHeap(s []metrics.Sample) (objects, live int64) {
	metrics.Read(s)
	return int64(s[0].Value.Uint64()), int64(s[1].Value.Uint64())
}

func watchHeap() {
	s := heapSamples()
	for range time.Tick(time.Millisecond) {
		objects, live := readHeap(s)
		heap.objects.Store(max(objects, heap.objects.Load()))
		heap.liven.Store(max(live, heap.liven.Load()))
	}
}

// heapOf is the peak of Caddy's heap while something is done.
func heapOf(c *Caddy, do func()) (p heapPeak) {
	c.t.Helper()
	c.Get("/heap/begin")
	do()
	if err := json.Unmarshal(c.Get("/heap/peak"), &p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// spooled is how many octets of messages the process has in files that are gone with it.
func (c *Caddy) spooled() (n int64) {
	c.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", c.Pid())
	list, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range list {
		name := filepath.Join(dir, f.Name())
		if to, err := os.Readlink(name); err == nil && strings.Contains(to, ".spool") {
			if info, err := os.Stat(name); err == nil {
				n += info.Size()
			}
		}
	}
	return n
}
