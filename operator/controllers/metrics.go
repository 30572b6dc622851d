package controllers

import (
	"context"
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/weftnet/weftnet/operator/plan"
)

var (
	planDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "weftnet_operator_plan_duration_seconds",
		Help:    "Time to compute the allocation of all nodes.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
	})
	poolBlocks = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weftnet_operator_pool_blocks",
		Help: "Blocks of a range of an IPPool by state: allocated (those that cool down included), cooling, free.",
	}, []string{"pool", "cidr", "state"})
	poolReady = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weftnet_operator_pool_ready",
		Help: "1 when the IPPool's condition Ready is True.",
	}, []string{"pool"})
	nodesByState = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weftnet_operator_nodes",
		Help: "Nodes by whether they have a block of every address family of their pools.",
	}, []string{"allocated"})
	problems = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weftnet_operator_problems",
		Help: "Problems found by the last plan, by kind of object and reason.",
	}, []string{"kind", "reason"})
	writes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weftnet_operator_writes_total",
		Help: "Writes to the API by kind, verb and result: ok, refused (somebody was faster, planned again), error.",
	}, []string{"kind", "verb", "result"})
)

func init() {
	metrics.Registry.MustRegister(planDuration, poolBlocks, poolReady, nodesByState, problems, writes)
}

// measure shows the last plan.
func measure(out plan.Output) {
	poolBlocks.Reset()
	poolReady.Reset()
	for _, s := range out.Pools {
		ready := 0.0
		if s.Ready.True {
			ready = 1
		}
		poolReady.WithLabelValues(s.Name).Set(ready)
		for _, u := range s.Usage {
			for state, n := range map[string]int64{"allocated": u.Allocated, "cooling": u.Cooling, "free": u.Free} {
				poolBlocks.WithLabelValues(s.Name, u.CIDR.String(), state).Set(float64(n))
			}
		}
	}
	var allocated int
	for _, m := range out.MeshNodes {
		if m.Allocated.True {
			allocated++
		}
	}
	nodesByState.WithLabelValues("true").Set(float64(allocated))
	nodesByState.WithLabelValues("false").Set(float64(len(out.MeshNodes) - allocated))
	problems.Reset()
	for _, p := range out.Problems {
		problems.WithLabelValues(string(p.Kind), string(p.Reason)).Inc()
	}
}

// count a write and pass its error on.
func count(kind, verb string, err error) error {
	result := "ok"
	switch {
	case err != nil && isRefusal(err):
		result = "refused"
	case err != nil:
		result = "error"
	}
	writes.WithLabelValues(kind, verb, result).Inc()
	return err
}

// parallel does n things, some at once, all of them whatever fails, and joins the errors.
func parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	var (
		group errgroup.Group
		mu    sync.Mutex
		errs  []error
	)
	group.SetLimit(writers)
	for i := range n {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			if err := do(ctx, i); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(errs...)
}
