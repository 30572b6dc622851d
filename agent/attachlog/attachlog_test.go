//go:build linux

package attachlog

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

type boot struct {
	id  string
	now atomic.Int64
}

func (b *boot) config(dir string) Config {
	return Config{Dir: dir, Boot: b.id, Now: func() time.Duration { return time.Duration(b.now.Load()) }, KeepReleased: 30 * time.Second}
}

func attachment(i int) state.Attachment {
	id := fmt.Sprintf("container-%d", i)
	return state.Attachment{
		HostLink: state.PodLinkName(id, "eth0"), ContainerID: id, IfName: "eth0", Network: "weftnet",
		Pod: state.PodRef{Namespace: "default", Name: id},
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}),
		},
		HostPorts: []state.HostPort{{Protocol: state.UDP, HostPort: 53, ContainerPort: 5353}},
		Bandwidth: state.Bandwidth{IngressRate: 1},
	}
}

func open(t *testing.T, c Config) (*Log, Recovery) {
	t.Helper()
	l, rec, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, rec
}

// kill lets go of the log as the end of its process would, without closing it in order.
func (l *Log) kill(t *testing.T) {
	t.Helper()
	if err := l.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustDurable(t *testing.T, tickets ...*Ticket) {
	t.Helper()
	for _, k := range tickets {
		if err := k.Durable(); err != nil {
			t.Fatal(err)
		}
	}
}

func names(s State) []string {
	var out []string
	for _, a := range s.Attachments {
		out = append(out, a.ContainerID)
	}
	return out
}

func TestStateSurvives(t *testing.T) {
	b := &boot{id: "one"}
	c := b.config(t.TempDir())
	l, rec := open(t, c)
	if !rec.Fresh || rec.Torn || rec.Damage != nil {
		t.Errorf("first open: %+v", rec)
	}
	b.now.Store(int64(5 * time.Second))
	mustDurable(t, l.Add(attachment(1)), l.Add(attachment(2)), l.Del(attachment(1).HostLink), l.Add(attachment(3)))
	if _, _, err := Open(c); !errors.Is(err, ErrLocked) {
		t.Errorf("open while it is open: got %v, want %v", err, ErrLocked)
	}
	l.kill(t)
	again, rec := open(t, c)
	if rec != (Recovery{}) {
		t.Errorf("second open: %+v", rec)
	}
	s := again.State()
	if got := strings.Join(names(s), " "); got != "container-2 container-3" {
		t.Errorf("attachments: %s", got)
	}
	if !s.Attachments[0].Equal(attachment(2)) {
		t.Errorf("got %+v", s.Attachments[0])
	}
	if len(s.Released) != 2 || s.Released[0].Addr != attachment(1).Addresses[0] || s.Released[0].At != 5*time.Second {
		t.Errorf("released: %v", s.Released)
	}
	if !slices.Contains(s.Last, attachment(3).Addresses[0]) || s.Last[len(s.Last)-1] != attachment(3).Addresses[1] {
		t.Errorf("last: %v", s.Last)
	}
}

func TestReleasedInAnEarlierBootCountsFromNow(t *testing.T) {
	dir := t.TempDir()
	b := &boot{id: "one"}
	b.now.Store(int64(time.Hour))
	l, _ := open(t, b.config(dir))
	mustDurable(t, l.Add(attachment(1)), l.Del(attachment(1).HostLink))

	l.kill(t)
	same := &boot{id: "one"}
	same.now.Store(int64(time.Hour + time.Minute))
	if l, _ := open(t, same.config(dir)); len(l.State().Released) != 0 {
		t.Errorf("released longer ago than is of use: %v", l.State().Released)
	}
	other := t.TempDir()
	l, _ = open(t, b.config(other))
	mustDurable(t, l.Add(attachment(1)), l.Del(attachment(1).HostLink))
	l.kill(t)
	next := &boot{id: "two"}
	next.now.Store(int64(time.Second))
	if l, _ := open(t, next.config(other)); len(l.State().Released) != 2 || l.State().Released[0].At != time.Second {
		t.Errorf("after a reboot: %v", l.State().Released)
	}
}

// TestTornAtEveryByte cuts the last batch short at every byte: what was durable before is there, and
// it is no damage.
func TestTornAtEveryByte(t *testing.T) {
	b := &boot{id: "one"}
	c := b.config(t.TempDir())
	l, _ := open(t, c)
	mustDurable(t, l.Add(attachment(1)))
	before := l.offset
	mustDurable(t, l.Add(attachment(2)))
	after := l.offset
	data, err := os.ReadFile(l.path())
	if err != nil {
		t.Fatal(err)
	}
	for cut := before; cut < after-1; cut++ {
		torn := slices.Clone(data[:after+100])
		clear(torn[cut:])
		p := parse(torn)
		if p.damage != "" || p.torn != (cut > before+1) || !slices.Equal(names(p.state), []string{"container-1"}) {
			t.Fatalf("cut at %d of %d..%d: torn %t, damage %q, %v", cut, before, after, p.torn, p.damage, names(p.state))
		}
	}
}

// TestDamageAtEveryByte spoils every byte but those of the last batch: it is always noticed.
func TestDamageAtEveryByte(t *testing.T) {
	b := &boot{id: "one"}
	l, _ := open(t, b.config(t.TempDir()))
	mustDurable(t, l.Add(attachment(1)))
	last := l.offset
	mustDurable(t, l.Add(attachment(2)))
	data, err := os.ReadFile(l.path())
	if err != nil {
		t.Fatal(err)
	}
	data = data[:l.offset+100] // the rest is zeros, too
	for _, spoil := range []byte{0, 'x', '\n'} {
		for at := range last {
			bad := slices.Clone(data)
			if bad[at] == spoil {
				continue
			}
			bad[at] = spoil
			if p := parse(bad); p.damage == "" {
				t.Fatalf("byte %d set to %q was not noticed in\n%s", at, spoil, bytes.TrimRight(bad, "\x00"))
			}
		}
	}
}

func TestDamageIsReportedAndKept(t *testing.T) {
	b := &boot{id: "one"}
	c := b.config(t.TempDir())
	l, _ := open(t, c)
	mustDurable(t, l.Add(attachment(1)), l.Add(attachment(2)))
	mustDurable(t, l.Add(attachment(3)))
	l.kill(t)
	path := filepath.Join(c.Dir, FileName)
	data, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(data, []byte("container-1"), []byte("c0ntainer-1"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	again, rec := open(t, c)
	if rec.Damage == nil || !strings.Contains(rec.Damage.Error(), path) {
		t.Errorf("damage: %v", rec.Damage)
	}
	if !slices.Contains(names(again.State()), "container-3") {
		t.Errorf("what is still readable is lost: %v", names(again.State()))
	}
	if kept, _ := filepath.Glob(path + ".damaged-*"); len(kept) != 1 {
		t.Errorf("kept: %v", kept)
	}
}

func TestUnreadableIsAnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	b := &boot{id: "one"}
	if _, _, err := Open(b.config(dir)); err == nil || !strings.Contains(err.Error(), FileName) {
		t.Errorf("got %v", err)
	}
}

func TestManyAtOnceThroughManyFiles(t *testing.T) {
	b := &boot{id: "one"}
	c := b.config(t.TempDir())
	l, _ := open(t, c)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for range 60 { // more than a file holds
				if l.Add(attachment(i)).Durable() != nil || l.Del(attachment(i).HostLink).Durable() != nil {
					t.Error("not durable")
				}
			}
			if i%2 == 0 {
				if err := l.Add(attachment(i)).Durable(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l.kill(t)
	again, rec := open(t, c)
	if got := again.State(); len(got.Attachments) != 20 || rec != (Recovery{}) {
		t.Errorf("%d attachments, %+v", len(got.Attachments), rec)
	}
}

func TestOpenWaitsForThePredecessor(t *testing.T) {
	b := &boot{id: "one"}
	c := b.config(t.TempDir())
	l, _ := open(t, c)
	mustDurable(t, l.Add(attachment(1)))
	c.LockWait = time.Minute
	opened := make(chan State)
	go func() {
		l, _, err := Open(c)
		if err != nil {
			t.Error(err)
			close(opened)
			return
		}
		defer func() { _ = l.Close() }()
		opened <- l.State()
	}()
	mustDurable(t, l.Add(attachment(2)))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names(<-opened), " "); got != "container-1 container-2" {
		t.Errorf("the successor has %s", got)
	}
}

func TestAppendAfterClose(t *testing.T) {
	b := &boot{id: "one"}
	l, _ := open(t, b.config(t.TempDir()))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if k := l.Add(attachment(1)); !errors.Is(k.Written(), ErrClosed) || !errors.Is(k.Durable(), ErrClosed) {
		t.Errorf("got %v", k.Durable())
	}
}

func TestFailedWriteIsToldAndHeals(t *testing.T) {
	b := &boot{id: "one"}
	l, _ := open(t, b.config(t.TempDir()))
	mustDurable(t, l.Add(attachment(1)))
	if err := l.file.Close(); err != nil { // every write fails from here on
		t.Fatal(err)
	}
	if err := l.Add(attachment(2)).Durable(); err == nil || !strings.Contains(err.Error(), FileName) {
		t.Fatalf("got %v", err)
	}
	mustDurable(t, l.Add(attachment(3)))
	l.kill(t)
	again, _ := open(t, l.cfg)
	if got := strings.Join(names(again.State()), " "); got != "container-1 container-3" {
		t.Errorf("attachments: %s", got)
	}
}

// TestOpenOnAFullDisk : what was recorded is known, what comes is refused with the reason, and both are well when
// there is room again. A folder in the place of the new file stands for the disk.
func TestOpenOnAFullDisk(t *testing.T) {
	b := &boot{id: "one"}
	dir := t.TempDir()
	l, _ := open(t, b.config(dir))
	mustDurable(t, l.Add(attachment(1)))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(dir, FileName+".new")
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	again, rec := open(t, b.config(dir))
	if rec.Unwritable == nil || rec.Fresh || rec.Torn || rec.Damage != nil {
		t.Errorf("recovery %+v", rec)
	}
	if got := strings.Join(names(again.State()), " "); got != "container-1" {
		t.Errorf("attachments: %s", got)
	}
	if err := again.Add(attachment(2)).Durable(); err == nil || !strings.Contains(err.Error(), FileName) {
		t.Errorf("an entry that cannot be written: %v", err)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	mustDurable(t, again.Add(attachment(3)))
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	last, rec := open(t, b.config(dir))
	if got := strings.Join(names(last.State()), " "); got != "container-1 container-3" || rec != (Recovery{}) {
		t.Errorf("attachments: %s, recovery %+v", got, rec)
	}
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(b.config(dir)); err == nil {
		t.Error("a log that never was can neither be read nor written, and is open")
	}
}

// TestCloseWithoutAFile : the log of a full disk is let go of.
func TestCloseWithoutAFile(t *testing.T) {
	b := &boot{id: "one"}
	dir := t.TempDir()
	l, _ := open(t, b.config(dir))
	if err := errors.Join(l.Close(), os.Mkdir(filepath.Join(dir, FileName+".new"), 0o700)); err != nil {
		t.Fatal(err)
	}
	blocked, _ := open(t, b.config(dir))
	if err := errors.Join(blocked.Close(), os.Remove(filepath.Join(dir, FileName+".new"))); err != nil {
		t.Fatal(err)
	}
	open(t, b.config(dir))
}

func FuzzParse(f *testing.F) {
	line, _ := formatLine([]Entry{{Del: "weftp0"}})
	f.Add(append([]byte(header), line...))
	f.Fuzz(func(t *testing.T, data []byte) { parse(data) })
}
