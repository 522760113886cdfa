package outbox

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// filled sets every field below v, or about half of them, to something.
func filled(v reflect.Value, r *rand.Rand, half bool) {
	if half && r.IntN(2) == 0 {
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), r.Int64N(1e9)).UTC()))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(256))})))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"plain", "<a@example.com>", `a "quoted" \ word`, "日本語", "two\r\nlines\x00", "\xff", "\u2028&"}[r.IntN(7)])
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + r.Int64N(9))
	case reflect.Uint8:
		v.SetUint(1 + r.Uint64N(255))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(3), 4))
		for i := range v.Len() {
			filled(v.Index(i), r, half)
		}
	case reflect.Array:
		for i := range v.Len() {
			filled(v.Index(i), r, half)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem(), r, half)
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i), r, half)
		}
	default:
		panic("a field of type " + v.Type().String())
	}
}

func messages(yield func(*Message) bool) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		m := new(Message)
		if i > 0 {
			filled(reflect.ValueOf(m).Elem(), r, i > 100)
		}
		if !yield(m) {
			return
		}
	}
}

// TestAppendJSON: the form is the one that json.Marshal makes, whatever is in the message.
func TestAppendJSON(t *testing.T) {
	t.Parallel()
	for m := range messages {
		theirs, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := m.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(theirs, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(ours, &got); err != nil {
			t.Fatalf("%v: %s", err, ours)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
	m := &Message{Accepted: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := m.AppendJSON(nil); err == nil {
		t.Error("a year with five digits has no JSON form")
	}
}

// TestClone: a copy is the same, and shares nothing.
func TestClone(t *testing.T) {
	t.Parallel()
	for m := range messages {
		c := m.Clone()
		if diff := cmp.Diff(m, c, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatal(diff)
		}
		before, _ := json.Marshal(m)
		scramble(reflect.ValueOf(c).Elem())
		if after, _ := json.Marshal(m); string(before) != string(after) {
			t.Fatalf("a change of the copy has changed the message:\n%s\n%s", before, after)
		}
	}
}

// scramble changes what is behind each pointer and in each slice.
func scramble(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			scramble(v.Elem())
			v.Elem().SetZero()
		}
	case reflect.Slice:
		for i := range v.Len() {
			scramble(v.Index(i))
			v.Index(i).SetZero()
		}
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			return
		}
		if _, ok := v.Interface().(netip.Addr); ok {
			return
		}
		for i := range v.NumField() {
			scramble(v.Field(i))
		}
	}
}
