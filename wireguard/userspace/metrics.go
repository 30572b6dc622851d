package userspace

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	upDesc = prometheus.NewDesc("weftnet_wireguard_device_up",
		"Whether a requested device runs.", []string{"device"}, nil)
	startsDesc = prometheus.NewDesc("weftnet_wireguard_device_starts_total",
		"Starts of a device in this process; more than one means that its link was taken away.", []string{"device"}, nil)
	peersDesc = prometheus.NewDesc("weftnet_wireguard_device_peers",
		"Configured peers of a device.", []string{"device"}, nil)
	receivedDesc = prometheus.NewDesc("weftnet_wireguard_device_receive_bytes_total",
		"Bytes received from the peers of a device, encryption included.", []string{"device"}, nil)
	sentDesc = prometheus.NewDesc("weftnet_wireguard_device_transmit_bytes_total",
		"Bytes sent to the peers of a device, encryption included.", []string{"device"}, nil)
)

// Describe lists the metrics.
func (m *Manager) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, startsDesc, peersDesc, receivedDesc, sentDesc} {
		out <- d
	}
}

// Collect reads every device.
func (m *Manager) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for device, starts := range m.starts {
		t := m.tunnels[device]
		up := 0.0
		if t != nil && t.running() {
			up = 1
			c := count(t)
			out <- prometheus.MustNewConstMetric(peersDesc, prometheus.GaugeValue, c.peers, device)
			out <- prometheus.MustNewConstMetric(receivedDesc, prometheus.CounterValue, c.received, device)
			out <- prometheus.MustNewConstMetric(sentDesc, prometheus.CounterValue, c.sent, device)
		}
		out <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up, device)
		out <- prometheus.MustNewConstMetric(startsDesc, prometheus.CounterValue, float64(starts), device)
	}
}

type counters struct{ peers, received, sent float64 }

func count(t *tunnel) (c counters) {
	state, err := t.device.IpcGet()
	if err != nil {
		return c
	}
	for line := range strings.Lines(state) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		n, _ := strconv.ParseFloat(value, 64) // of lines that are no numbers nothing is used
		switch key {
		case "public_key":
			c.peers++
		case "rx_bytes":
			c.received += n
		case "tx_bytes":
			c.sent += n
		}
	}
	return c
}
