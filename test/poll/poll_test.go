package poll

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// told is a test that notes its failure.
type told struct {
	testing.TB
	text string
}

func (*told) Helper() {}

func (t *told) Fatalf(format string, args ...any) {
	t.text = fmt.Sprintf(format, args...)
	panic(t)
}

func TestUntil(t *testing.T) {
	looks := 0
	Until(t, time.Minute, "three looks", func() error {
		if looks++; looks < 3 {
			return errors.New("too few")
		}
		return nil
	})
	if looks != 3 {
		t.Errorf("%d looks, want 3", looks)
	}
}

func TestUntilGivesUpWithTheLastWord(t *testing.T) {
	inner := &told{TB: t}
	func() {
		defer func() {
			if r := recover(); r != inner {
				t.Fatalf("it ended with %v", r)
			}
		}()
		Until(inner, 0, "the impossible", func() error { return errors.New("it is not so") })
	}()
	if !strings.Contains(inner.text, "the impossible: not within 0s: it is not so") {
		t.Errorf("it says %q", inner.text)
	}
}
