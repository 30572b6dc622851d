//go:build linux && netns

package policy

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/poll"
)

// TestTableOfAnotherOwner has another program take our table's name for its own, with the flag that makes the kernel
// refuse every change by others. No Pod can be closed then, so none is called closed, and no new one starts; once that
// program has ended, what is wanted is in force at once, and nobody is closed for having waited.
func TestTableOfAnotherOwner(t *testing.T) {
	l := newLab(t)
	client, open, shut := l.makePod("peers", "client", 10), l.makePod("prod", "open", 11), l.makePod("closed", "shut", 12)
	l.cluster.setPods(client.Pod, open.Pod, shut.Pod)
	l.cluster.setPolicy(denyIn("closed"))
	l.cluster.setMissing()
	l.start()
	for _, p := range []labPod{client, open, shut} {
		l.add(p)
	}
	l.serve(open)
	l.serve(shut)
	release := l.own()
	l.eventually("the refusal to be told", func() bool {
		err := l.loop.Ready()
		return err != nil && strings.Contains(err.Error(), "operation not permitted")
	})
	for i := range 5 {
		err := l.loop.Sync(t.Context())
		if r, _ := l.loop.Report(); err == nil || r.Err == nil || len(r.Shut) != 0 {
			t.Errorf("pass %d: error %v, report %+v", i, err, r)
		}
	}
	late := l.makePod("closed", "late", 13)
	l.plugin.add(late.attachment())
	if err := l.loop.Admit(t.Context(), late.attachment()); err == nil {
		t.Error("a Pod was admitted whose rules nobody can write")
	}
	l.plugin.remove(late.attachment().HostLink)
	release()
	l.eventually("readiness", func() bool {
		r, _ := l.loop.Report()
		if len(r.Shut) != 0 {
			t.Fatalf("closed for nothing: %v, since %v", r.Shut, r.Err)
		}
		return l.loop.Ready() == nil
	})
	for _, row := range []struct {
		to   labPod
		want bool
	}{{open, true}, {shut, false}} {
		if got, err := l.reaches(client, row.to, 80); err != nil || got != row.want {
			t.Errorf("when the other has ended, %s reaches %s: %v (%v), want %v", client.Name, row.to.Name, got, err, row.want)
		}
	}
}

// own runs an nft that has made our table its own, until it is released.
func (l *lab) own() (release func()) {
	l.Helper()
	cmd := exec.Command("nft", "-i")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		l.node.Do(l, func() { err = cmd.Start() })
	}
	if err != nil {
		l.Fatal(err)
	}
	release = func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}
	l.Cleanup(release)
	// One line is one transaction, so that the loop cannot make the table between the two. It is sent once: a second one, sent
	// before the first has been seen, would delete the table anew when nobody looks any more.
	if _, err := io.WriteString(stdin, "delete table inet weftnet-policy; add table inet weftnet-policy { flags owner; }\n"); err != nil {
		l.Fatal(err)
	}
	poll.Until(l, 30*time.Second, "the table to be taken", func() error {
		if list := l.run(l.node, "nft list ruleset"); !strings.Contains(list, "flags owner") {
			return fmt.Errorf("no table has an owner:\n%s", list)
		}
		return nil
	})
	return release
}
