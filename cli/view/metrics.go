package view

import (
	"bytes"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// The agent's metrics about its peers, each with the peer's node name in the label peer.
const (
	peerLabel       = "peer"
	endpointLabel   = "endpoint"
	metricInfo      = "weftnet_peer_info"
	metricHandshake = "weftnet_peer_handshake_age_seconds"
	metricReceived  = "weftnet_peer_receive_bytes_total"
	metricSent      = "weftnet_peer_transmit_bytes_total"
)

// parseLinks reads the peers out of the text of an agent's /metrics.
func parseLinks(text []byte) (map[string]Link, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parse the agent's metrics: %w", err)
	}
	links := map[string]Link{}
	each(families[metricInfo], func(peer string, m *dto.Metric) {
		links[peer] = Link{Endpoint: label(m, endpointLabel), Handshake: -1}
	})
	each(families[metricHandshake], func(peer string, m *dto.Metric) {
		link, ok := links[peer]
		if !ok {
			link.Handshake = -1
		}
		if v := value(m); v >= 0 {
			link.Handshake = time.Duration(v * float64(time.Second))
		}
		links[peer] = link
	})
	each(families[metricReceived], func(peer string, m *dto.Metric) {
		if link, ok := links[peer]; ok {
			link.Received = uint64(value(m))
			links[peer] = link
		}
	})
	each(families[metricSent], func(peer string, m *dto.Metric) {
		if link, ok := links[peer]; ok {
			link.Sent = uint64(value(m))
			links[peer] = link
		}
	})
	return links, nil
}

func each(family *dto.MetricFamily, do func(peer string, m *dto.Metric)) {
	for _, m := range family.GetMetric() {
		if peer := label(m, peerLabel); peer != "" {
			do(peer, m)
		}
	}
}

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Counter != nil:
		return m.Counter.GetValue()
	default:
		return m.Untyped.GetValue()
	}
}
