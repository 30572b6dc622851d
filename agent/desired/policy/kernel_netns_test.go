//go:build netns

package policy_test

import (
	"encoding/binary"
	"hash/crc32"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// sctpInit is a packet with one INIT chunk (RFC 9260, 3.3.2).
func (s sent) sctpInit() []byte {
	b := binary.BigEndian.AppendUint16(nil, s.source)
	b = binary.BigEndian.AppendUint16(b, s.Port)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)      // verification tag, checksum
	b = append(b, 1, 0, 0, 20)                 // INIT, its length
	b = binary.BigEndian.AppendUint32(b, 0x57) // initiate tag
	b = binary.BigEndian.AppendUint32(b, 65535)
	b = append(b, 0, 1, 0, 1, 0, 0, 0, 1)
	const checksumAt = 8
	binary.LittleEndian.PutUint32(b[checksumAt:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// TestRealPackets changes a world step by step on the real kernel, and sends real packets: what the
// evaluator denies does not pass, and everything else does. The kernel takes every patch, and has
// just the table that the engine says.
func TestRealPackets(t *testing.T) {
	l := newLab(t)
	denied, passed := 0, 0
	for seed := range uint64(rounds(6)) {
		w := newWorld(1000 + seed)
		e := w.engine()
		if err := l.kernel.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		for step := range 12 {
			for range 1 + w.r.IntN(4) {
				w.step(e)
			}
			if err := l.apply(t.Context(), e.Commit()); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			d, p := l.round(w, e)
			denied, passed = denied+d, passed+p
		}
		if c, err := l.kernel.Ensure(t.Context(), e.Table()); err != nil || !c.Empty() {
			t.Fatalf("seed %d: the kernel's table was another: %v\n%s", seed, err, c)
		}
	}
	t.Logf("%d packets denied, %d passed", denied, passed)
	if denied < passed/20 || passed < denied/20 {
		t.Error("the worlds are too dull")
	}
}

// round sends some packets and waits for those that shall pass.
func (l *lab) round(w *world, e *policy.Engine) (denied, passed int) {
	l.t.Helper()
	packets := l.send(w, w.sendable(40))
	wanted := map[string]bool{}
	for _, p := range packets {
		if reasons, _ := w.expected(e, p.Packet); len(reasons) == 0 {
			wanted[p.String()] = true
		}
	}
	arrived := map[string]bool{}
	for deadline := time.Now().Add(10 * time.Second); ; {
		arrived = l.seen()
		missing := slices.ContainsFunc(packets, func(p sent) bool { return wanted[p.String()] && !arrived[p.String()] })
		if !missing || time.Now().After(deadline) {
			break
		}
	}
	for _, p := range packets {
		if wanted[p.String()] != arrived[p.String()] {
			reasons, _ := w.expected(e, p.Packet)
			l.t.Fatalf("%+v: passed is %v, but the evaluator says %v\n%s", p, arrived[p.String()], reasons, e.Table())
		}
	}
	return len(packets) - len(wanted), len(wanted)
}

// sendable are packets that a socket can send here: between two ends, with ports, and from and to
// this node's Pods only where they are attached with the address.
func (w *world) sendable(n int) []policy.Packet {
	var out []policy.Packet
	for len(out) < n {
		p := w.packet()
		here := func(i int) bool {
			return i%3 == 0 && (slices.Contains(podAddrs(i), p.Src) || slices.Contains(podAddrs(i), p.Dst))
		}
		bad := p.Port == 0 || p.Src == p.Dst || slices.Contains(w.self.IPs, p.Src) && slices.Contains(w.self.IPs, p.Dst)
		for i := range 15 {
			bad = bad || here(i) && (slices.Contains(podAddrs(i), p.Src) && w.linkOf(p.Src) == "" || slices.Contains(podAddrs(i), p.Dst) && w.linkOf(p.Dst) == "")
		}
		local := w.linkOf(p.Src) != "" || w.linkOf(p.Dst) != "" || slices.Contains(w.self.IPs, p.Src)
		if !bad && local {
			out = append(out, p)
		}
	}
	return out
}

// TestDeniedPacketsAreCounted by the interface of the Pod, and by the place that denied them.
func TestDeniedPacketsAreCounted(t *testing.T) {
	l := newLab(t)
	w := newWorld(1)
	for _, ns := range namespaceNames {
		np := snapshot.NetworkPolicy{Namespace: ns, Name: "np1", Types: []string{"Ingress", "Egress"}}
		w.policies[np.Key()] = np
	}
	e := w.engine()
	if err := l.apply(t.Context(), e.Commit()); err != nil {
		t.Fatal(err)
	}
	denied, _ := l.round(w, e)
	sum := func(list, pattern string) int {
		n := 0
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(list, -1) {
			k, _ := strconv.Atoi(m[1])
			n += k
		}
		return n
	}
	pods := 0
	for _, set := range []string{policy.SetDeniedIn, policy.SetDeniedOut} {
		pods += sum(l.run("node", "nft list set inet "+policy.TableName+" "+set), `counter packets (\d+)`)
	}
	places := sum(l.run("node", "nft list counters table inet "+policy.TableName), `counter deny-[0-9a-f]+ \{\s+packets (\d+)`)
	if denied == 0 || pods != denied || places != denied {
		t.Errorf("%d packets were denied, %d counted by Pods and %d by places", denied, pods, places)
	}
}
