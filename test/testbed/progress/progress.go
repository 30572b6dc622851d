// Package progress shows long tasks that run beside each other: one line redrawn every second on a terminal, plain lines with the
// elapsed time elsewhere, so that a log of a CI run stays readable.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	redrawEvery = time.Second
	remindEvery = 30 * time.Second // without a terminal; short enough that a CI run does not look stuck
	fallback    = 120              // columns, when the terminal does not tell
)

// Display owns a writer until Close. It is safe for concurrent use.
type Display struct {
	mu       sync.Mutex
	w        io.Writer
	columns  int // 0: not a terminal
	tasks    []*Task
	reminded time.Time
	drawn    bool
	stop     chan struct{}
	done     chan struct{}
}

// Task is one line of work. Its Note is what it does now.
type Task struct {
	display *Display
	name    string
	note    string
	started time.Time
}

// New starts a display on w. A nil w discards everything.
func New(w io.Writer) *Display {
	if w == nil {
		w = io.Discard
	}
	d := &Display{w: w, columns: columnsOf(w), reminded: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	go d.loop()
	return d
}

func columnsOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 20 {
		return n
	}
	return fallback
}

func (d *Display) loop() {
	defer close(d.done)
	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case now := <-ticker.C:
			d.tick(now)
		}
	}
}

func (d *Display) tick(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.tasks) == 0 {
		return
	}
	if d.columns > 0 {
		fmt.Fprintf(d.w, "\r\033[K%s", clip(summary(d.tasks, now), d.columns-1))
		d.drawn = true
		return
	}
	if now.Sub(d.reminded) >= remindEvery {
		d.reminded = now
		fmt.Fprintf(d.w, "  ... %s\n", summary(d.tasks, now))
	}
}

// Printf prints one permanent line above the redrawn one.
func (d *Display) Printf(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.print(fmt.Sprintf(format, args...))
}

func (d *Display) print(line string) {
	if d.drawn {
		fmt.Fprint(d.w, "\r\033[K")
		d.drawn = false
	}
	fmt.Fprintln(d.w, line)
}

// Start adds a running task.
func (d *Display) Start(name string) *Task {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &Task{display: d, name: name, started: time.Now()}
	d.tasks = append(d.tasks, t)
	if d.columns == 0 {
		d.print("  start  " + name)
	}
	return t
}

// Note says what the task does now.
func (t *Task) Note(format string, args ...any) {
	t.display.mu.Lock()
	defer t.display.mu.Unlock()
	t.note = fmt.Sprintf(format, args...)
}

// Done takes the task off the display and leaves a line with its outcome and duration. It returns err.
func (t *Task) Done(err error) error {
	d := t.display
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, other := range d.tasks {
		if other == t {
			d.tasks = append(d.tasks[:i:i], d.tasks[i+1:]...)
			break
		}
	}
	outcome := "done  "
	if err != nil {
		outcome = "FAILED"
	}
	d.print(fmt.Sprintf("  %s %s (%s)", outcome, t.name, Elapsed(time.Since(t.started))))
	return err
}

// Close stops redrawing and clears the live line.
func (d *Display) Close() {
	close(d.stop)
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drawn {
		fmt.Fprint(d.w, "\r\033[K")
		d.drawn = false
	}
}

func summary(tasks []*Task, now time.Time) string {
	parts := make([]string, 0, len(tasks))
	for _, t := range tasks {
		part := fmt.Sprintf("%s %s", Elapsed(now.Sub(t.started)), t.name)
		if t.note != "" {
			part += ": " + t.note
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " | ")
}

func clip(s string, columns int) string {
	if r := []rune(s); len(r) > columns {
		return string(r[:columns])
	}
	return s
}

// Elapsed prints a duration the way people say it: 8.4s, 2m05s.
func Elapsed(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	d = d.Round(time.Second)
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}
