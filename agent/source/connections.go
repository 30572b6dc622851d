package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

// Connections are the agent's to the API server.
type Connections struct {
	// Shared is for clients that have one connection together, HTTP/2's.
	Shared *rest.Config
	// Apart is for lists and watches of what changes often: each has a connection of its own, HTTP/1.1's. A change is
	// then read by who decodes it, where on a shared connection one goroutine reads for all and wakes another:
	// a tenth of the CPU time of a quiet change of an endpoint (docs/service-proxy.md).
	Apart *rest.Config

	dialer *connrotation.Dialer
}

// Connect prepares the connections, of which none is made yet.
func Connect(cfg *rest.Config) (*Connections, error) {
	dialer := connrotation.NewDialer(dialPlain)
	shared, err := over(dialer.DialContext, cfg)
	var apart *rest.Config
	if err == nil {
		apart, err = over(func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &heard{Conn: c, silentFor: silentFor}, nil
		}, cfg, "http/1.1")
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("connect to the API server: no ServiceAccount is mounted (outside of a Pod give --kubeconfig): %w", err)
	case err != nil:
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return &Connections{Shared: shared, Apart: apart, dialer: dialer}, nil
}

// Renew closes all connections: one whose own address is gone hears nothing any more, and would find out only after
// deadAfter. What was under way fails and is tried again on a new one.
func (c *Connections) Renew() { c.dialer.CloseAll() }

// over makes the configuration of clients that share a transport, which speaks one of the protocols, or the best.
func over(dial connrotation.DialFunc, cfg *rest.Config, protocols ...string) (*rest.Config, error) {
	own := rest.CopyConfig(cfg)
	own.Dial = dial
	own.NextProtos = protocols
	transport, err := rest.TransportFor(own)
	if err != nil {
		return nil, err
	}
	// Trust and credentials are the transport's, which every client shares.
	return &rest.Config{Host: own.Host, APIPath: own.APIPath, Transport: transport, UserAgent: own.UserAgent, QPS: own.QPS, Burst: own.Burst}, nil
}
