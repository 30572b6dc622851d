//go:build linux

package cniserver

import (
	"strconv"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics collects what the server did, and asks the book for the rest.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	book     *book
}

var (
	addressesDesc   = prometheus.NewDesc("weftnet_ipam_addresses", "Addresses of the node's pod CIDRs, by what they are: used, cooling (released a moment ago) or free.", []string{"block", "state"}, nil)
	attachmentsDesc = prometheus.NewDesc("weftnet_cni_attachments", "Pod interfaces on this node.", nil, nil)
)

func newMetrics(b *book) *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weftnet_cni_requests_total", Help: "CNI requests, by verb and by CNI error code (0: success).",
		}, []string{"verb", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weftnet_cni_request_duration_seconds", Help: "Time from a CNI request's arrival to its answer, by verb.",
			Buckets: []float64{.001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 4, 8, 16, 32},
		}, []string{"verb"}),
		book: b,
	}
}

func (m *metrics) observe(verb string, fail *types.Error, took time.Duration) {
	if _, known := since[verb]; !known {
		verb = "other" // what came over the socket must not make label values
	}
	code := uint(0)
	if fail != nil {
		code = fail.Code
	}
	m.requests.WithLabelValues(verb, strconv.FormatUint(uint64(code), 10)).Inc()
	m.duration.WithLabelValues(verb).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.requests.Describe(ch)
	m.duration.Describe(ch)
	ch <- addressesDesc
	ch <- attachmentsDesc
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.requests.Collect(ch)
	m.duration.Collect(ch)
	ch <- prometheus.MustNewConstMetric(attachmentsDesc, prometheus.GaugeValue, float64(len(m.book.wanted())))
	for _, u := range m.book.usage() {
		for _, c := range []struct {
			state string
			count int
		}{{"used", u.Used}, {"cooling", u.Cooling}, {"free", u.Free}} {
			ch <- prometheus.MustNewConstMetric(addressesDesc, prometheus.GaugeValue, float64(c.count), u.Block.String(), c.state)
		}
	}
}
