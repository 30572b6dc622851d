package status

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/version"
)

// Metrics is the agent's registry and what the loop counts into it.
type Metrics struct {
	Registry *prometheus.Registry

	passes prometheus.Histogram
	errors *prometheus.CounterVec
	drift  *prometheus.CounterVec
	policy *PolicyMetrics
}

var _ reconcile.Recorder = (*Metrics)(nil)

// NewMetrics makes a registry of its own, with the Go runtime's and the process's metrics.
func NewMetrics() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weftnet_reconcile_duration_seconds", Help: "Duration of one pass of the loop.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weftnet_reconcile_errors_total", Help: "Failures to bring a part of the node's network into force.",
		}, []string{"stage"}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weftnet_drift_repaired_total", Help: "Changes by others to what the agent keeps, put back.",
		}, []string{"kind"}),
	}
	m.policy = newPolicyMetrics(m)
	for _, s := range append(reconcile.Stages(), stagePolicy, stageService) { // a counter that is not there cannot be alerted on
		m.errors.WithLabelValues(s)
		m.drift.WithLabelValues(s)
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weftnet_build_info", Help: "Version of the agent."}, []string{"version"})
	info.WithLabelValues(version.Version).Set(1)
	m.Registry.MustRegister(m.passes, m.errors, m.drift, info, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Pass counts a pass.
func (m *Metrics) Pass(took time.Duration) { m.passes.Observe(took.Seconds()) }

// StageFailed counts a failure.
func (m *Metrics) StageFailed(stage string) { m.errors.WithLabelValues(stage).Inc() }

// DriftRepaired counts a repair.
func (m *Metrics) DriftRepaired(stage string) { m.drift.WithLabelValues(stage).Inc() }

// Drop counts what the fail-closed table has dropped in one direction.
type Drop struct {
	Direction      string
	Packets, Bytes uint64
}

// Collector reads the last report and the drop counters at each scrape, so that what belongs to a
// peer goes with the peer.
type Collector struct {
	Loop Loop
	// Drops reads the counters of the fail-closed table.
	Drops func(ctx context.Context) ([]Drop, error)
	// Untaken reads, by name of each mesh link, how many packets it did not take for want of room; nil where that is not known.
	Untaken func(ctx context.Context) (map[string]uint64, error)
}

var (
	descExpected  = desc("weftnet_peers_expected", "Other nodes that have published a key.")
	descConnected = desc("weftnet_peers_connected", "Peers with a handshake that is still good.")
	descReady     = desc("weftnet_mesh_ready", "Whether device, peers, routes and fail-closed rules are in force.")
	descHandshake = desc("weftnet_peer_handshake_age_seconds", "Time since the last handshake with the peer; -1 when there was none.", "peer")
	descUnanswer  = desc("weftnet_peer_unanswered_seconds", "For how long what is sent to the peer has had no answer; 0 when none is owed.", "peer")
	descHeard     = desc("weftnet_peer_heard_age_seconds", "Time since anything came from the peer; absent when nothing has since the agent began.", "peer")
	descReceive   = desc("weftnet_peer_receive_bytes_total", "Bytes received from the peer, WireGuard's own included.", "peer")
	descTransmit  = desc("weftnet_peer_transmit_bytes_total", "Bytes sent to the peer, WireGuard's own included.", "peer")
	descPeer      = desc("weftnet_peer_info", "The peer's endpoint and public key.", "peer", "endpoint", "public_key")
	descProblems  = desc("weftnet_problems", "Faults found in API objects.", "kind", "reason")
	descPackets   = desc("weftnet_failclosed_drops_packets_total", "Packets dropped because they had a Pod or mesh address outside of the mesh.", "direction")
	descBytes     = desc("weftnet_failclosed_drops_bytes_total", "Bytes of those packets.", "direction")
	descUntaken   = desc("weftnet_device_transmit_drops_packets_total", "Packets that the mesh device did not take, for want of room in its queue.", "interface")
	// Names that dashboards for other WireGuard meshes know.
	descPeersTotal = desc("wireguard_peers_total", "Configured WireGuard peers.", "interface")
	descIPsTotal   = desc("wireguard_allowed_ips_total", "Configured WireGuard allowed IPs.", "interface")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe sends the descriptions.
func (c Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descExpected, descConnected, descReady, descHandshake, descUnanswer, descHeard, descReceive, descTransmit, descPeer,
		descProblems, descPackets, descBytes, descUntaken, descPeersTotal, descIPsTotal} {
		out <- d
	}
}

// Collect sends the values.
func (c Collector) Collect(out chan<- prometheus.Metric) {
	c.collectDrops(out)
	c.collectUntaken(out)
	r, ok := c.Loop.Report()
	if !ok {
		return
	}
	now := time.Now()
	connected := 0
	for _, p := range r.Plan.Peers {
		if collectPeer(out, r, p, now) {
			connected++
		}
	}
	gauge(out, descExpected, float64(len(r.Plan.Peers)))
	gauge(out, descConnected, float64(connected))
	ready := 0.0
	if r.Err == nil && r.Plan.Waiting == "" {
		ready = 1
	}
	gauge(out, descReady, ready)
	for _, d := range r.Plan.Devices {
		ips := 0
		for _, p := range d.WG.Peers {
			ips += len(p.AllowedIPs)
		}
		gauge(out, descPeersTotal, float64(len(d.WG.Peers)), d.WG.Name)
		gauge(out, descIPsTotal, float64(ips), d.WG.Name)
	}
	problems := map[[2]string]int{}
	for _, p := range r.Plan.Problems {
		problems[[2]string{p.Kind, p.Reason}]++
	}
	for key, n := range problems {
		gauge(out, descProblems, float64(n), key[0], key[1])
	}
}

// collectPeer tells whether the peer is connected.
func collectPeer(out chan<- prometheus.Metric, r reconcile.Report, p mesh.Peer, now time.Time) bool {
	stats, known := r.Facts.Peers[p.Key]
	age := -1.0
	if known && !stats.LastHandshake.IsZero() {
		age = max(now.Sub(stats.LastHandshake).Seconds(), 0)
	}
	gauge(out, descHandshake, age, p.Node)
	if !known {
		return false
	}
	liveness := r.Facts.Liveness[p.Key]
	gauge(out, descUnanswer, liveness.Unanswered.Seconds(), p.Node)
	if !liveness.Heard.IsZero() {
		gauge(out, descHeard, max(now.Sub(liveness.Heard).Seconds(), 0), p.Node)
	}
	counter(out, descReceive, stats.RxBytes, p.Node)
	counter(out, descTransmit, stats.TxBytes, p.Node)
	endpoint := ""
	if stats.Endpoint.IsValid() {
		endpoint = stats.Endpoint.String()
	}
	gauge(out, descPeer, 1, p.Node, endpoint, p.Key.String())
	return p.Refused == "" && mesh.Connected(r.Facts, p.Key, now)
}

// patience with the kernel at a scrape.
const patience = 2 * time.Second

func (c Collector) collectUntaken(out chan<- prometheus.Metric) {
	if c.Untaken == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	links, err := c.Untaken(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(descUntaken, err)
		return
	}
	for name, packets := range links {
		counter(out, descUntaken, packets, name)
	}
}

func (c Collector) collectDrops(out chan<- prometheus.Metric) {
	if c.Drops == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drops, err := c.Drops(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(descPackets, err)
		return
	}
	for _, d := range drops {
		counter(out, descPackets, d.Packets, d.Direction)
		counter(out, descBytes, d.Bytes, d.Direction)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}
