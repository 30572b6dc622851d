package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// stuckAfter is how long the loop may be silent before the agent counts as hung. It turns at least
// every second, and one pass may take ten when the wireguard process hangs.
const stuckAfter = 60 * time.Second

// Server answers on /metrics, /healthz and /readyz.
type Server struct {
	Address string
	// LastTurn is when the loop turned last; zero before the first time.
	LastTurn func() time.Time
	// Ready is nil when Pods can be given a network.
	Ready    func() error
	Registry *prometheus.Registry
	// Profile adds /debug/pprof.
	Profile bool
}

// Run serves until the context ends.
func (s Server) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", s.Address)
	if err != nil {
		return fmt.Errorf("listen for metrics and probes: %w", err)
	}
	server := &http.Server{Handler: s.handler(time.Now()), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and probes: %w", err)
	}
	return nil
}

func (s Server) handler(started time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.healthy(started, time.Now())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.Ready()) })
	if s.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// healthy: a restart helps against a loop that hangs, and against nothing else.
func (s Server) healthy(started, now time.Time) error {
	last := s.LastTurn()
	if last.IsZero() {
		last = started
	}
	if silent := now.Sub(last); silent > stuckAfter {
		return fmt.Errorf("the loop has not turned for %s", silent.Round(time.Second))
	}
	return nil
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}
