package status

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func key(i int) state.PublicKey { return state.PublicKey{byte(i)} }

// report is a node with n peers that all have a good handshake.
func report(n int) reconcile.Report {
	r := reconcile.Report{
		At: now, BackendReason: "kernel has WireGuard",
		Plan: mesh.Output{Own: mesh.Own{PublicKey: key(1), KeyEpoch: 1, Endpoints: addrs("192.0.2.1", "2001:db8::1"), ListenPort: 51820, MTU: 1440}},
		Facts: facts.Facts{Backend: state.LinkWireGuard, UplinkAddrs: addrs("192.0.2.1"),
			Peers: map[state.PublicKey]state.PeerStats{}},
	}
	for i := 2; i < n+2; i++ {
		endpoint := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:51820", i))
		r.Plan.Peers = append(r.Plan.Peers, mesh.Peer{Node: fmt.Sprintf("node%d", i), Key: key(i), Published: []netip.AddrPort{endpoint}})
		r.Facts.Peers[key(i)] = state.PeerStats{PublicKey: key(i), Endpoint: endpoint, LastHandshake: now.Add(-time.Minute), RxBytes: 100, TxBytes: 200}
	}
	return r
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

func stats(r *reconcile.Report, i int, change func(*state.PeerStats)) {
	s := r.Facts.Peers[key(i)]
	change(&s)
	r.Facts.Peers[key(i)] = s
}

func find(t *testing.T, s v1alpha1.MeshNodeStatus, kind string) metav1.Condition {
	t.Helper()
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("condition %s is missing", kind)
	return metav1.Condition{}
}

func TestComputeConditions(t *testing.T) {
	rows := []struct {
		name                       string
		change                     func(*reconcile.Report)
		peers                      int
		ready, mesh, connected     string
		readyReason, connectedSays string
	}{
		{"all well", nil, 2, "True", "True", "True", "InForce", "all 2 peers"},
		{"alone", nil, 0, "True", "True", "True", "InForce", "no other node"},
		{"waiting", func(r *reconcile.Report) { r.Plan.Waiting = "the operator has not allocated"; r.Plan.Peers = nil }, 2, "False", "False", "True", "Waiting", ""},
		{"failing", func(r *reconcile.Report) { r.Err = errors.Join(errors.New("nft: refused"), errors.New("wg: gone")) }, 2, "False", "False", "True", "Failing", ""},
		{"one peer silent", func(r *reconcile.Report) {
			stats(r, 3, func(s *state.PeerStats) { s.LastHandshake = now.Add(-time.Hour) })
		}, 2, "True", "True", "False", "InForce", "1 of 2 peers have no good handshake: node3 (silent since its handshake at 11:00 UTC"},
		{"one peer does not answer", func(r *reconcile.Report) {
			r.Facts.Liveness = map[state.PublicKey]facts.Liveness{key(3): {Since: now.Add(-time.Minute), Unanswered: 20 * time.Second}}
		}, 2, "True", "True", "False", "InForce", "1 of 2 peers have no good handshake: node3 (no answer since 11:59 UTC"},
		{"one peer does not hear", func(r *reconcile.Report) {
			r.Facts.Liveness = map[state.PublicKey]facts.Liveness{key(3): {Since: now.Add(-time.Minute), Unanswered: 20 * time.Second, Heard: now.Add(-time.Second)}}
		}, 2, "True", "True", "False", "InForce", "node3 (no answer since 11:59 UTC, though its packets arrive: UDP from here to 192.0.2.3:51820 does not get through"},
		{"one peer takes its time", func(r *reconcile.Report) {
			r.Facts.Liveness = map[state.PublicKey]facts.Liveness{key(3): {Since: now.Add(-time.Minute), Unanswered: 19 * time.Second}}
		}, 2, "True", "True", "True", "InForce", "all 2 peers"},
		{"never heard of", func(r *reconcile.Report) {
			stats(r, 3, func(s *state.PeerStats) { s.LastHandshake, s.RxBytes = time.Time{}, 0 })
		}, 2, "True", "True", "False", "InForce", "no answer from 192.0.2.3:51820: UDP is blocked"},
		{"another key", func(r *reconcile.Report) {
			stats(r, 3, func(s *state.PeerStats) { s.LastHandshake = time.Time{} })
		}, 2, "True", "True", "False", "InForce", "packets come from 192.0.2.3:51820 and no handshake"},
		{"no endpoint", func(r *reconcile.Report) {
			r.Plan.Peers[1].Published = nil
			delete(r.Facts.Peers, key(3))
		}, 2, "True", "True", "False", "InForce", "publishes no endpoint"},
		{"other family", func(r *reconcile.Report) {
			r.Plan.Peers[1].Published = []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::3]:51820")}
			delete(r.Facts.Peers, key(3))
		}, 2, "True", "True", "False", "InForce", "address family"},
		{"refused", func(r *reconcile.Report) { r.Plan.Peers[1].Refused = "its public key is not a WireGuard key" }, 2,
			"True", "True", "False", "InForce", "refused because its public key"},
		{"nobody answers", func(r *reconcile.Report) { r.Facts.Peers = nil }, 2, "False", "True", "False", "NoPeerConnected", "2 of 2 peers"},
		{"many silent", func(r *reconcile.Report) {
			for i := 3; i < 12; i++ {
				delete(r.Facts.Peers, key(i))
			}
		}, 10, "True", "True", "False", "InForce", "and 4 more"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := report(row.peers)
			if row.change != nil {
				row.change(&r)
			}
			s := Compute(Observed{Report: r, Generation: 7, Now: now})
			for kind, want := range map[string]string{v1alpha1.ConditionReady: row.ready, v1alpha1.ConditionMeshReady: row.mesh, v1alpha1.ConditionPeersConnected: row.connected} {
				c := find(t, s, kind)
				if string(c.Status) != want || c.ObservedGeneration != 7 || c.Message == "" || strings.Contains(c.Message, "\n") {
					t.Errorf("%s is %s (%s: %q), want %s", kind, c.Status, c.Reason, c.Message, want)
				}
			}
			if c := find(t, s, v1alpha1.ConditionReady); c.Reason != row.readyReason {
				t.Errorf("reason %s, want %s", c.Reason, row.readyReason)
			}
			if c := find(t, s, v1alpha1.ConditionPeersConnected); !strings.Contains(c.Message, row.connectedSays) {
				t.Errorf("message %q, want %q", c.Message, row.connectedSays)
			}
		})
	}
}

func TestComputeFields(t *testing.T) {
	r := report(3)
	delete(r.Facts.Peers, key(4))
	r.Plan.Peers[1].BehindNAT = true
	s := Compute(Observed{Report: r, Now: now})
	if s.PublicKey != key(1).String() || s.KeyEpoch != 1 || s.ListenPort != 51820 || s.MTU != 1440 || s.Backend != v1alpha1.BackendKernel ||
		len(s.Endpoints) != 2 || s.Endpoints[1] != "2001:db8::1" || s.Peers.Expected != 3 || s.Peers.Connected != 2 || len(s.NATPeers) != 1 || s.NATPeers[0] != "node3" {
		t.Errorf("status %+v", s)
	}
}

// TestKubeProxy : a condition only while Weftnet's own service proxy is on, and no node is unready for it.
func TestKubeProxy(t *testing.T) {
	for _, row := range []struct {
		name           string
		found          *kubeproxy.Finding
		status, reason string
		problems       int
	}{
		{"not looked for", nil, "", "", 0},
		{"absent", &kubeproxy.Finding{}, "False", "NoKubeProxy", 0},
		{"beside ours", &kubeproxy.Finding{Running: true, Rules: true, Mode: "nftables"}, "True", "KubeProxyRunning", 1},
		{"left over", &kubeproxy.Finding{Rules: true, Mode: "iptables"}, "True", "KubeProxyRulesLeft", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := report(2)
			s := Compute(Observed{Report: r, KubeProxy: row.found, Now: now})
			i := slices.IndexFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionKubeProxyPresent })
			if row.found == nil {
				if i >= 0 {
					t.Errorf("condition %+v", s.Conditions[i])
				}
			} else if c := find(t, s, v1alpha1.ConditionKubeProxyPresent); string(c.Status) != row.status || c.Reason != row.reason || !strings.Contains(c.Message, row.found.Mode) {
				t.Errorf("condition %+v", c)
			}
			if c := find(t, s, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
				t.Errorf("the node is unready: %+v", c)
			}
			if got := (&Publisher{}).problems(r.Plan, row.found); len(got) != row.problems {
				t.Errorf("events of %+v, want %d", got, row.problems)
			}
		})
	}
}

// Handshakes that are renewed and bytes that flow write nothing.
func TestTheStatusIsStable(t *testing.T) {
	r := report(2)
	first := Compute(Observed{Report: r, Now: now})
	for i := range 50 {
		at := now.Add(time.Duration(i) * 3 * time.Second)
		stats(&r, 2, func(s *state.PeerStats) { s.LastHandshake, s.TxBytes = at, s.TxBytes+1000 })
		stats(&r, 3, func(s *state.PeerStats) { s.LastHandshake = at })
		p := Publisher{written: &first, at: now}
		if _, due := p.due(Compute(Observed{Report: r, Before: first.Conditions, Now: at}), at); due {
			t.Fatalf("after %v a write is due", at.Sub(now))
		}
	}
}

func TestTransitionTimes(t *testing.T) {
	r := report(2)
	first := Compute(Observed{Report: r, Now: now})
	later := now.Add(time.Hour)
	delete(r.Facts.Peers, key(3))
	stats(&r, 2, func(s *state.PeerStats) { s.LastHandshake = later })
	second := Compute(Observed{Report: r, Before: first.Conditions, Now: later})
	if c := find(t, second, v1alpha1.ConditionPeersConnected); !c.LastTransitionTime.Time.Equal(later) {
		t.Errorf("a condition that changed has the time %v", c.LastTransitionTime)
	}
	if c := find(t, second, v1alpha1.ConditionMeshReady); !c.LastTransitionTime.Time.Equal(now) {
		t.Errorf("a condition that stayed has the time %v", c.LastTransitionTime)
	}
}

func TestRateLimit(t *testing.T) {
	r := report(2)
	first := Compute(Observed{Report: r, Now: now})
	moved, silent := report(2), report(2)
	moved.Plan.Own.Endpoints = addrs("192.0.2.99")
	delete(silent.Facts.Peers, key(3))
	p := Publisher{written: &first, at: now}
	quiet := Compute(Observed{Report: silent, Before: first.Conditions, Now: now})
	p.written = &quiet // PeersConnected is False already; now the count changes again
	delete(silent.Facts.Peers, key(2))
	rows := []struct {
		name  string
		want  v1alpha1.MeshNodeStatus
		after time.Duration
		due   bool
	}{
		{"nothing new", quiet, time.Hour, false},
		{"new endpoint, at once after another write", Compute(Observed{Report: moved, Now: now}), 100 * time.Millisecond, false},
		{"new endpoint", Compute(Observed{Report: moved, Now: now}), time.Second, true},
	}
	for _, row := range rows {
		if _, due := p.due(row.want, now.Add(row.after)); due != row.due {
			t.Errorf("%s: due is %v", row.name, due)
		}
	}
	count := quiet
	count.Peers.Connected = 0
	for after, want := range map[time.Duration]bool{2 * time.Second: false, 9 * time.Second: false, 10 * time.Second: true} {
		if _, due := p.due(count, now.Add(after)); due != want {
			t.Errorf("a new count %v after the last write: due is %v", after, due)
		}
	}
}

type fixedLoop struct{ r reconcile.Report }

func (f fixedLoop) Report() (reconcile.Report, bool) { return f.r, true }
func (f fixedLoop) Reported() <-chan struct{}        { return nil }

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	r := report(2)
	stats(&r, 3, func(s *state.PeerStats) { s.LastHandshake = time.Time{} })
	stats(&r, 2, func(s *state.PeerStats) { s.LastHandshake = time.Now() })
	r.Facts.Liveness = map[state.PublicKey]facts.Liveness{key(3): {Unanswered: 21 * time.Second, Heard: time.Now().Add(-time.Hour)}}
	r.Plan.Devices = []mesh.Device{{WG: state.Device{Name: "weft0", Peers: []state.Peer{{AllowedIPs: []netip.Prefix{{}, {}}}, {}}}}}
	r.Plan.Problems = []mesh.Problem{{Kind: "MeshNode", Reason: "InvalidCIDR", Name: "a"}, {Kind: "MeshNode", Reason: "InvalidCIDR", Name: "b"}}
	loop := &fixedLoop{r}
	m.Registry.MustRegister(Collector{Loop: loop, Drops: func(context.Context) ([]Drop, error) {
		return []Drop{{Direction: "out", Packets: 3, Bytes: 300}}, nil
	}, Untaken: func(context.Context) (map[string]uint64, error) { return map[string]uint64{"weft0": 7}, nil }})
	m.StageFailed("wg")
	m.DriftRepaired("route")
	m.Pass(time.Millisecond)
	text := scrape(t, m)
	for _, line := range []string{
		"weftnet_peers_expected 2", "weftnet_peers_connected 1", "weftnet_mesh_ready 1",
		`weftnet_peer_handshake_age_seconds{peer="node3"} -1`,
		`weftnet_peer_unanswered_seconds{peer="node2"} 0`, `weftnet_peer_unanswered_seconds{peer="node3"} 21`,
		`weftnet_peer_receive_bytes_total{peer="node2"} 100`, `weftnet_peer_transmit_bytes_total{peer="node2"} 200`,
		`weftnet_peer_info{endpoint="192.0.2.2:51820",peer="node2",public_key="` + key(2).String() + `"} 1`,
		`weftnet_failclosed_drops_packets_total{direction="out"} 3`, `weftnet_failclosed_drops_bytes_total{direction="out"} 300`,
		`weftnet_device_transmit_drops_packets_total{interface="weft0"} 7`,
		`weftnet_reconcile_errors_total{stage="wg"} 1`, `weftnet_reconcile_errors_total{stage="nft"} 0`,
		`weftnet_drift_repaired_total{kind="route"} 1`, `weftnet_reconcile_duration_seconds_count 1`,
		`wireguard_peers_total{interface="weft0"} 2`, `wireguard_allowed_ips_total{interface="weft0"} 2`,
		`weftnet_problems{kind="MeshNode",reason="InvalidCIDR"} 2`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if heard := `weftnet_peer_heard_age_seconds{peer="node`; !strings.Contains(text, heard+`3"} 36`) || strings.Contains(text, heard+`2"`) {
		t.Error("of node3 something was heard an hour ago, of node2 nothing is known")
	}
	if problems, err := testutil.GatherAndLint(m.Registry, "weftnet_peer_unanswered_seconds", "weftnet_peer_heard_age_seconds", "weftnet_peer_info", "weftnet_peers_expected", "weftnet_reconcile_duration_seconds",
		"weftnet_drift_repaired_total", "weftnet_failclosed_drops_packets_total", "weftnet_device_transmit_drops_packets_total", "weftnet_peer_handshake_age_seconds"); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	loop.r.Plan.Peers = loop.r.Plan.Peers[:1] // node3 goes, and what belongs to it
	if strings.Contains(scrape(t, m), "node3") {
		t.Error("a peer that is gone is still in the metrics")
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	return get(t, Server{Registry: m.Registry}.handler(now), "/metrics", http.StatusOK)
}

func get(t *testing.T, h http.Handler, path string, want int) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != want {
		t.Errorf("%s: status %d, want %d: %s", path, w.Code, want, w.Body)
	}
	return w.Body.String()
}

func TestProbes(t *testing.T) {
	turned, ready := time.Now(), errors.New("waiting for the wireguard process")
	s := Server{Registry: NewMetrics().Registry, LastTurn: func() time.Time { return turned }, Ready: func() error { return ready }}
	h := s.handler(time.Now())
	get(t, h, "/healthz", http.StatusOK)
	if body := get(t, h, "/readyz", http.StatusServiceUnavailable); !strings.Contains(body, "waiting for the wireguard process") {
		t.Errorf("body %q", body)
	}
	ready = nil
	get(t, h, "/readyz", http.StatusOK)
	turned = time.Now().Add(-2 * time.Minute)
	get(t, h, "/healthz", http.StatusServiceUnavailable)
	turned = time.Time{} // never, but the agent has just started
	get(t, h, "/healthz", http.StatusOK)
	get(t, s.handler(time.Now().Add(-time.Hour)), "/healthz", http.StatusServiceUnavailable)
	get(t, h, "/debug/pprof/", http.StatusNotFound)
	s.Profile = true
	get(t, s.handler(now), "/debug/pprof/", http.StatusOK)
}

func TestServerEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := Server{Address: "127.0.0.1:0", Registry: NewMetrics().Registry}
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	s.Address = "127.0.0.1:-1"
	if err := s.Run(t.Context()); err == nil {
		t.Error("an impossible address is no error")
	}
}

// TestEventNames : the name of an event may have 253 bytes, as that of its object.
func TestEventNames(t *testing.T) {
	if got := eventName("pool", 1); got != "pool.0000000000000001" {
		t.Errorf("a short name became %q", got)
	}
	long := eventName(strings.Repeat("a.", 126)+"a", 2)
	if len(long) > 253 || strings.Contains(long, "..") || !strings.HasSuffix(long, "a.0000000000000002") {
		t.Errorf("a long name became %d bytes: %q", len(long), long)
	}
}
