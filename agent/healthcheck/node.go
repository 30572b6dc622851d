package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/weftnet/weftnet/agent/kubeproxy"
)

// NodePort is where kube-proxy answers, and load balancers ask, unless they were told otherwise.
const NodePort = 10256

// Node answers on /healthz and /livez for the whole node.
type Node struct {
	Config
	// Port to listen on, on all addresses.
	Port uint16
	// Answered counts answers, by "healthz" or "livez" and the status.
	Answered func(kind string, code int)
}

// answer is kube-proxy's.
type answer struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyStatus `json:"status,omitempty"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Run listens until the context ends. A port that is taken, by a kube-proxy that still runs, is tried
// again and again.
func (n Node) Run(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		err := n.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if !said {
			n.Log.Warn("the node's health cannot be asked for; trying again", "port", n.Port, "error", err)
		}
		said = true
		timer := time.NewTimer(retryEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (n Node) serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(n.Port)))
	if err != nil {
		return fmt.Errorf("listen for health checks of the node: %w", err)
	}
	server := &http.Server{Handler: n.Handler(), ReadHeaderTimeout: readTimeout, IdleTimeout: idleTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answer health checks of the node: %w", err)
	}
	return nil
}

// Handler answers: /healthz is for load balancers and says no on a node that is about to go, too;
// /livez is only about the proxy.
func (n Node) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		eligible := n.Eligible()
		n.answer(w, "healthz", &eligible)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { n.answer(w, "livez", nil) })
	return mux
}

func (n Node) answer(w http.ResponseWriter, kind string, eligible *bool) {
	now := time.Now()
	a := answer{LastUpdated: n.Updated(), CurrentTime: now, NodeEligible: eligible, Healthy: n.Healthy(now)}
	if !a.LastUpdated.IsZero() {
		a.Status = map[string]familyStatus{}
		for _, family := range []string{"IPv4", "IPv6"} {
			a.Status[family] = familyStatus{LastUpdated: a.LastUpdated, Healthy: a.Healthy}
		}
	}
	code := http.StatusOK
	if !a.Healthy || (eligible != nil && !*eligible) {
		code = http.StatusServiceUnavailable
	} else {
		a.LastUpdated = now // who asks may judge by its age
	}
	n.Answered(kind, code)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set(kubeproxy.Header, "service-proxy")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a)
}
