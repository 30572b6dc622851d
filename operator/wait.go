package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

const (
	// askEvery is how often it is looked whether the API server is back, askTimeout how long it may take to answer.
	askEvery   = time.Second
	askTimeout = 5 * time.Second
	// tellEvery is how often the log says what is waited for.
	tellEvery = time.Minute
	// headerTimeout bounds how long a request of the kubelet's may take to come.
	headerTimeout = 5 * time.Second
)

// awaitAPIServer waits until the API server answers. Without it the manager ends at once, and after some ends the kubelet
// waits up to five minutes before it starts the operator again: so long a cluster that is back would have
// none. Meanwhile the operator answers the kubelet that it is alive, and not ready.
func awaitAPIServer(ctx context.Context, config *rest.Config, healthAddress string, log *slog.Logger) error {
	ask, err := asking(config)
	if err != nil {
		return err
	}
	if ask(ctx) == nil {
		return nil
	}
	stop, err := answerAlive(ctx, healthAddress, log)
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for told := (time.Time{}); ctx.Err() == nil; {
		fault := ask(ctx)
		if fault == nil {
			log.Info("the API server answers")
			return nil
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			log.Warn("the API server does not answer; waiting for it", "server", config.Host, "error", fault.Error())
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// asking gives a question to the API server: something that the operator lives on. Nil is an answer, also one that
// refuses: what comes next tells better what is wrong.
func asking(config *rest.Config) (func(context.Context) error, error) {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		err := client.RESTClient().Get().AbsPath("apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "ippools").Param("limit", "1").Do(ctx).Error()
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}, nil
}

// answerAlive answers on the health address until it is stopped.
func answerAlive(ctx context.Context, address string, log *slog.Logger) (stop func(), err error) {
	if address == "0" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("answer health checks: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the API server does not answer", http.StatusServiceUnavailable)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("answer health checks", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}
