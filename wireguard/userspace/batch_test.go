package userspace

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.zx2c4.com/wireguard/tun"
	"pgregory.net/rapid"
)

// script is a TUN link that has reads in store: each the packets that one read gives.
type script struct {
	tun.Device
	reads [][]string
	end   error
}

func (s *script) BatchSize() int { return batchSize }

const batchSize = 128

func (s *script) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(s.reads) == 0 {
		return 0, s.end
	}
	read := s.reads[0]
	s.reads = s.reads[1:]
	for i, p := range read {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(read), nil
}

// readAll reads to the end, with as many buffers as wireguard-go has, and returns every packet and how
// many each read gave.
func readAll(t interface{ Fatal(...any) }, b *batchedTUN, offset int) (packets []string, counts []int) {
	bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for {
		n, err := b.Read(bufs, sizes, offset)
		for i := range n {
			packets = append(packets, string(bufs[i][offset:offset+sizes[i]]))
		}
		counts = append(counts, n)
		if errors.Is(err, errEnd) {
			return packets, counts
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

var errEnd = errors.New("the end")

// TestBatchesLoseNothing reads all kinds of mixtures: every packet comes, once, in its order.
func TestBatchesLoseNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &script{end: errEnd}
		var want []string
		for _, n := range rapid.SliceOf(rapid.OneOf(rapid.Just(1), rapid.IntRange(1, batchSize))).Draw(rt, "reads") {
			var read []string
			for range n {
				read = append(read, fmt.Sprintf("packet %d", len(want)+len(read)))
			}
			s.reads, want = append(s.reads, read), append(want, read...)
		}
		b := newBatched(s, func() bool { return rapid.Bool().Draw(rt, "waiting") })
		if got, _ := readAll(rt, b, 16); !slices.Equal(got, want) {
			rt.Fatalf("got %q, want %q", got, want)
		}
	})
}

// TestWhatWaitsIsReadTogether has 100 packets that came one by one.
func TestWhatWaitsIsReadTogether(t *testing.T) {
	s := &script{end: errEnd}
	for i := range 100 {
		s.reads = append(s.reads, []string{fmt.Sprint(i)})
	}
	_, counts := readAll(t, newBatched(s, func() bool { return len(s.reads) > 0 }), 0)
	if want := []int{64, 36, 0}; !slices.Equal(counts, want) {
		t.Errorf("reads of %v packets, want %v", counts, want)
	}
}

// TestOneThatComesAloneIsNotDelayed never waits for a second packet.
func TestOneThatComesAloneIsNotDelayed(t *testing.T) {
	s := &script{end: errEnd, reads: [][]string{{"a"}, {"b"}}}
	_, counts := readAll(t, newBatched(s, func() bool { return false }), 0)
	if want := []int{1, 1, 0}; !slices.Equal(counts, want) {
		t.Errorf("reads of %v packets, want %v", counts, want)
	}
}
