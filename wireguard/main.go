// Weftnet-wireguard runs wireguard-go for the agent on nodes whose kernel has no WireGuard, in a
// process of its own, so that nothing that happens to the agent touches a tunnel. Where the kernel
// has WireGuard nobody requests a device, and it waits.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/version"
	"github.com/weftnet/weftnet/wireguard/request"
	"github.com/weftnet/weftnet/wireguard/userspace"
)

type options struct {
	listen, requestDir, socketDir string
	logLevel                      slog.Level
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:9742", "address for /healthz, /readyz and /metrics: host:port, or unix:path; empty for none")
	flag.StringVar(&o.requestDir, "request-dir", request.Dir, "directory of the agent's requests")
	flag.StringVar(&o.socketDir, "socket-dir", userspace.SocketDir, "directory of the UAPI sockets")
	flag.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flag.Parse()
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.logLevel}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o, log); err != nil {
		log.Error("stop", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, log *slog.Logger) error {
	syscall.Umask(0o077) // whatever this process makes is root's alone
	tuning := userspace.Tune()
	log.Info("start", "version", version.Version, "tuning", tuning)
	links, err := link.New()
	if err != nil {
		return err
	}
	defer links.Close()
	manager := userspace.New(userspace.Config{RequestDir: o.requestDir, SocketDir: o.socketDir, Adopt: links.Adopt, Log: log})
	if o.listen != "" {
		closeServer, err := serve(o.listen, manager, log)
		if err != nil {
			return err
		}
		defer closeServer()
	}
	return manager.Run(ctx)
}

// serve answers probes and Prometheus. It is not what the process is for: when it fails later on,
// the tunnels go on.
func serve(address string, manager *userspace.Manager, log *slog.Logger) (func(), error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: %w", address, err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	server := &http.Server{Handler: handler(manager), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve probes and metrics", "error", err)
		}
	}()
	return func() { _ = server.Close() }, nil
}

func handler(manager *userspace.Manager) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(manager, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !manager.Alive(time.Now()) {
			http.Error(w, "the loop that serves requests is stuck", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := manager.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}
