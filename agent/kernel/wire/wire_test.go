//go:build linux

package wire

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPutAndParse(t *testing.T) {
	b := Put(nil, Str(1, "weft"), Big32(2, 7), Host32(3, 8), Big64(4, 9), Nest(5, Bytes(1, []byte{1, 2, 3})))
	attrs := Parse(b)
	if len(attrs) != 5 {
		t.Fatalf("%d attributes, want 5", len(attrs))
	}
	if got := String(Find(attrs, 1)); got != "weft" {
		t.Errorf("string is %q", got)
	}
	if BigUint32(Find(attrs, 2)) != 7 || HostUint32(Find(attrs, 3)) != 8 || BigUint64(Find(attrs, 4)) != 9 {
		t.Errorf("numbers are %v", attrs)
	}
	if got := Find(Parse(Find(attrs, 5)), 1); !bytes.Equal(got, []byte{1, 2, 3}) {
		t.Errorf("nested value is %v", got)
	}
	if Find(attrs, 6) != nil || BigUint32(nil) != 0 || BigUint64(nil) != 0 || HostUint32([]byte{1}) != 0 || String(nil) != "" {
		t.Error("what is missing is not nothing")
	}
}

func TestFrameIsAligned(t *testing.T) {
	for n := range 9 {
		b := Frame(nil, 1, 2, 3, make([]byte, n))
		if len(b)%unix.NLMSG_ALIGNTO != 0 || len(b) < unix.SizeofNlMsghdr+n {
			t.Errorf("payload of %d bytes: frame of %d", n, len(b))
		}
	}
}

// FuzzParse looks for input on which taking messages apart fails or does not end.
func FuzzParse(f *testing.F) {
	f.Add(Put(nil, Str(1, "weft"), Nest(5, Big32(1, 1))))
	f.Add(Frame(nil, 1, 2, 3, []byte("payload")))
	f.Add([]byte{4, 0, 0, 0, 255, 255, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for _, a := range Parse(b) {
			total += len(a.Data)
			_ = Parse(a.Data)
		}
		if total > len(b) {
			t.Errorf("%d bytes of values in %d bytes", total, len(b))
		}
		anyMessage(b, func(m Message) bool { _ = Parse(m.Data); return false })
	})
}
