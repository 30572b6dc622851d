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
	peerLabel        = "peer"
	endpointLabel    = "endpoint"
	metricInfo       = "weftnet_peer_info"
	metricHandshake  = "weftnet_peer_handshake_age_seconds"
	metricReceived   = "weftnet_peer_receive_bytes_total"
	metricSent       = "weftnet_peer_transmit_bytes_total"
	metricUnanswered = "weftnet_peer_unanswered_seconds"
	metricHeard      = "weftnet_peer_heard_age_seconds"
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
		links[peer] = Link{Endpoint: label(m, endpointLabel), Handshake: -1, Heard: -1}
	})
	each(families[metricHandshake], func(peer string, m *dto.Metric) {
		link, ok := links[peer]
		if !ok {
			link = Link{Handshake: -1, Heard: -1}
		}
		if v := value(m); v >= 0 {
			link.Handshake = seconds(v)
		}
		links[peer] = link
	})
	for name, set := range map[string]func(*Link, float64){
		metricReceived:   func(l *Link, v float64) { l.Received = uint64(v) },
		metricSent:       func(l *Link, v float64) { l.Sent = uint64(v) },
		metricUnanswered: func(l *Link, v float64) { l.Unanswered = seconds(v) },
		metricHeard:      func(l *Link, v float64) { l.Heard = seconds(v) },
	} {
		each(families[name], func(peer string, m *dto.Metric) {
			if link, ok := links[peer]; ok {
				set(&link, value(m))
				links[peer] = link
			}
		})
	}
	return links, nil
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

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
