//go:build linux && netns

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// said is a log.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

type saidLine struct {
	Msg, Direction, Pod, Src, Dst, Protocol, Tier string
	Policies                                      []string
	LeftOut                                       int
}

// lines are those with a message.
func (s *said) lines(msg string) (out []saidLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text := range strings.Lines(s.text.String()) {
		var l saidLine
		if json.Unmarshal([]byte(text), &l) == nil && l.Msg == msg {
			out = append(out, l)
		}
	}
	return out
}

// logDenied reads the log group of the node until the test ends.
func (l *lab) logDenied() *said {
	l.Helper()
	s := &said{}
	ctx, cancel := context.WithCancel(l.Context())
	var work sync.WaitGroup
	d := l.denied()
	work.Go(func() {
		l.node.Do(l, func() { _ = d.Log(ctx, slog.New(slog.NewJSONHandler(s, nil))) })
	})
	l.Cleanup(func() { cancel(); work.Wait() })
	return s
}

func (l *lab) denied() Denied {
	return Denied{Loop: l.loop, Table: l.table, Attachments: l.plugin.standing}
}

// packets is what the kernel has counted as denied to Pods of this node.
func (l *lab) packets() (n uint64) {
	l.Helper()
	pods, err := l.denied().ByPod(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range pods {
		n += p.Packets
	}
	return n
}

// TestWhatIsLogged : of the packets that the kernel denies, those that the annotation or the MeshConfig asks for.
func TestWhatIsLogged(t *testing.T) {
	for name, row := range map[string]struct {
		mode              desired.LogMode
		annotated, logged bool
	}{
		"Annotated, annotated":     {desired.LogAnnotated, true, true},
		"Annotated, not annotated": {desired.LogAnnotated, false, false},
		"Never, annotated":         {desired.LogNever, true, false},
		"All, not annotated":       {desired.LogAll, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
			l.cluster.setPods(server.Pod, client.Pod)
			deny := denyIn("prod")
			deny.Log = row.annotated
			deny.PodSelector = snapshot.Selector{MatchLabels: server.Labels}
			l.cluster.setPolicy(deny)
			l.cluster.setMissing()
			l.options = desired.Options{Log: row.mode, LogRate: 1000}
			l.start()
			l.add(server)
			l.add(client)
			log := l.logDenied()
			// Until a line is there, as the reader takes a moment to begin; without one as many packets are denied.
			denied := func() bool {
				if open, err := l.reaches(client, server, 80); open || err != nil {
					t.Fatalf("the Pod is open: %v", err)
				}
				return l.packets() >= 6 && (!row.logged || len(log.lines("denied")) >= 2)
			}
			l.eventually("denied packets", denied)
			lines := log.lines("denied")
			if !row.logged {
				if len(lines) > 0 {
					t.Errorf("logged %+v", lines)
				}
				return
			}
			for _, line := range lines {
				if line.Pod != "prod/server-10" || line.Direction != "ingress" || line.Protocol != "tcp" || line.Tier != "NetworkPolicy" ||
					len(line.Policies) != 1 || line.Policies[0] != "prod/deny-all" || !strings.HasSuffix(line.Dst, ":80") {
					t.Errorf("the line is %+v", line)
				}
			}
		})
	}
}

// TestLeftOutIsTold floods a Pod that denies it: no more lines are written than the rate allows, and when the
// flood has ended, and nothing is denied any more, all the others have been told as left out.
func TestLeftOutIsTold(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	l.cluster.setPods(server.Pod, client.Pod)
	l.cluster.setPolicy(denyIn("prod"))
	l.cluster.setMissing()
	l.options = desired.Options{Log: desired.LogAll, LogRate: 5}
	l.start()
	l.add(server)
	l.add(client)
	log := l.logDenied()
	l.eventually("a line", func() bool { _, _ = l.reaches(client, server, 80); return len(log.lines("denied")) > 0 })
	stop := l.flood(client.ns, server.IPs)
	l.eventually("a flood", func() bool { return l.packets() > 5000 })
	stop()
	total := int(l.packets())
	l.eventually("every packet to be told", func() bool {
		n := len(log.lines("denied"))
		for _, line := range log.lines("more packets were denied than are logged") {
			n += line.LeftOut
		}
		return n >= total-10 // the first ones may be denied before the agent has begun to count
	})
	if n := len(log.lines("denied")); n > 200 {
		t.Errorf("%d lines", n)
	}
	l.eventually("the sum", func() bool { return int(l.packets()) == total })
	n := len(log.lines("denied"))
	for _, line := range log.lines("more packets were denied than are logged") {
		n += line.LeftOut
	}
	if n > total {
		t.Errorf("%d packets are told of %d", n, total)
	}
}
