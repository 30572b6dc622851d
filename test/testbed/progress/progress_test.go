package progress

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestElapsed(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                      "0.0s",
		8400 * time.Millisecond:                "8.4s",
		2*time.Minute + 5*time.Second:          "2m05s",
		119*time.Second + 700*time.Millisecond: "2m00s",
		75 * time.Minute:                       "75m00s",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("Elapsed(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestSummaryListsEveryTaskWithItsOwnTime(t *testing.T) {
	now := time.Now()
	tasks := []*Task{
		{name: "kubernetes", note: "812 packages", started: now.Add(-90 * time.Second)},
		{name: "helm", started: now.Add(-3 * time.Second)},
	}
	if got, want := summary(tasks, now), "1m30s kubernetes: 812 packages | 3.0s helm"; got != want {
		t.Errorf("summary = %q, want %q", got, want)
	}
	if got := clip("äöüß", 2); got != "äö" {
		t.Errorf("clip cut a rune: %q", got)
	}
}

func TestPlainWriterGetsLinesAndNoEscapes(t *testing.T) {
	var out bytes.Buffer
	d := New(&out)
	ok, bad := d.Start("one"), d.Start("two")
	d.tick(time.Now().Add(remindEvery))
	if err := ok.Done(nil); err != nil {
		t.Error(err)
	}
	failure := errors.New("broken")
	if err := bad.Done(failure); !errors.Is(err, failure) {
		t.Errorf("Done returned %v", err)
	}
	d.Close()
	got := out.String()
	for _, want := range []string{"start  one", "... ", "done   one", "FAILED two"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.ContainsAny(got, "\r\033") {
		t.Errorf("escape sequences in plain output: %q", got)
	}
}
