//go:build linux

package steady

import (
	"testing"
	"time"
)

// TestNothingIsMadeUpFor: behind a standstill no more is sent at once than a burst, and then as before.
func TestNothingIsMadeUpFor(t *testing.T) {
	begin := time.Unix(1000, 0)
	p := pace{interval: time.Millisecond, next: begin}
	for _, step := range []struct {
		at   time.Duration
		want int
	}{
		{0, 1}, {500 * time.Microsecond, 0}, {time.Millisecond, 1}, {5 * time.Millisecond, 4},
		{time.Second, burst}, {1001 * time.Millisecond, 1}, {1002 * time.Millisecond, 1},
	} {
		if got := p.due(begin.Add(step.at)); got != step.want {
			t.Errorf("%s after the start %d are due, want %d", step.at, got, step.want)
		}
	}
}

func TestMissing(t *testing.T) {
	m := missing{}
	for _, n := range []uint64{7, 3, 4, 5, 100} {
		m[n] = true
	}
	if got, want := m.String(), "3-5, 7, 100"; got != want {
		t.Errorf("missing %s, want %s", got, want)
	}
	for n := uint64(200); n < 240; n += 2 {
		m[n] = true
	}
	if got, want := m.String(), "3-5, 7, 100, 200, 202, 204, 206, 208, 210, 212, ..."; got != want {
		t.Errorf("missing %s, want %s", got, want)
	}
}
