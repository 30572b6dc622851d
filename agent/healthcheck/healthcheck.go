// Package healthcheck answers load balancers outside of the cluster, in the words of kube-proxy: on the
// healthCheckNodePort of each Service with externalTrafficPolicy Local, whether this node has a
// ready endpoint of it, and on one port for the whole node, whether to send connections here at all.
package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// ReasonListen is the reason of the problem of a Service whose port somebody else has; kube-proxy's
// event says the same.
const ReasonListen = "FailedToStartServiceHealthcheck"

// retryEvery is how often it is tried again to listen on a port that was taken.
const retryEvery = 30 * time.Second

// Services answers on the ports of Services. Make it with NewServices.
type Services struct {
	cfg Config

	mu   sync.Mutex
	open map[snapshot.ServiceName]*instance
	// closed are those whose port is somebody else's.
	closed map[snapshot.ServiceName]*instance
}

// Config of both kinds of servers.
type Config struct {
	// Healthy tells whether what changes is put in force in time.
	Healthy func(now time.Time) bool
	// Eligible tells whether the node is to stay.
	Eligible func() bool
	// Updated is when everything was last in force.
	Updated func() time.Time
	Log     *slog.Logger
}

// instance is one Service's server.
type instance struct {
	services *Services
	name     snapshot.ServiceName
	addrs    []netip.Addr
	port     uint16
	server   *http.Server
	fault    error

	mu    sync.Mutex
	local int
}

// NewServices answers nothing yet.
func NewServices(cfg Config) *Services {
	return &Services{cfg: cfg, open: map[snapshot.ServiceName]*instance{}, closed: map[snapshot.ServiceName]*instance{}}
}

// Put takes Services that have changed.
func (s *Services) Put(_ context.Context, wanted []service.Wanted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What goes first makes room: two Services may exchange their ports.
	for _, w := range wanted {
		if i := s.find(w.Service); i != nil && !i.listensAsWanted(w.HealthCheck) {
			i.close()
			delete(s.open, w.Service)
			delete(s.closed, w.Service)
		}
	}
	for _, w := range wanted {
		if w.HealthCheck == nil {
			continue
		}
		i := s.find(w.Service)
		if i == nil {
			i = &instance{services: s, name: w.Service, addrs: w.HealthCheck.Addrs, port: w.HealthCheck.Port}
		}
		i.set(w.HealthCheck.LocalReady)
		s.place(i)
	}
	return nil
}

func (s *Services) find(name snapshot.ServiceName) *instance {
	if i := s.open[name]; i != nil {
		return i
	}
	return s.closed[name]
}

// place opens an instance that is not open.
func (s *Services) place(i *instance) {
	if i.server != nil {
		return
	}
	before := i.fault
	if i.fault = i.listen(); i.fault == nil {
		delete(s.closed, i.name)
		s.open[i.name] = i
		return
	}
	s.closed[i.name] = i
	if before == nil {
		s.cfg.Log.Warn("listen on the health check port of a Service", "service", i.name.String(), "port", i.port, "error", i.fault)
	}
}

// Complete has no meaning here.
func (s *Services) Complete(context.Context) error { return nil }

// Problems are the Services that cannot be answered for.
func (s *Services) Problems() []service.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []service.Problem
	for _, i := range s.closed {
		out = append(out, service.Problem{Service: i.name, Reason: ReasonListen,
			Text: fmt.Sprintf("spec.healthCheckNodePort: port %d cannot be listened on: %v; load balancers will not send to this node", i.port, i.fault)})
	}
	slices.SortFunc(out, func(a, b service.Problem) int { return a.Service.Compare(b.Service) })
	return out
}

// Run tries ports again that were taken, until the context ends, and then closes all.
func (s *Services) Run(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			for _, i := range s.open {
				i.close()
			}
			s.mu.Unlock()
			return
		case <-tick.C:
			s.mu.Lock()
			for _, i := range s.closed {
				s.place(i)
			}
			s.mu.Unlock()
		}
	}
}

const (
	// readTimeout bounds how long a request may take to come.
	readTimeout = 5 * time.Second
	// idleTimeout is how long a connection without a request is kept: load balancers ask every few seconds, and anybody
	// who reaches the node may open some.
	idleTimeout = 2 * time.Minute
)

func (i *instance) listensAsWanted(h *service.HealthCheck) bool {
	return h != nil && h.Port == i.port && slices.Equal(h.Addrs, i.addrs)
}

// listen opens the port on all addresses, or on none.
func (i *instance) listen() error {
	config := net.ListenConfig{Control: beforeAddress}
	var listeners []net.Listener
	for _, addr := range i.addrs {
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			continue // it says nothing without its link, and nobody beyond that link could ask
		}
		l, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(addr, i.port).String())
		if err != nil {
			for _, open := range listeners {
				_ = open.Close()
			}
			return err
		}
		listeners = append(listeners, l)
	}
	i.server = &http.Server{Handler: i, ReadHeaderTimeout: readTimeout, IdleTimeout: idleTimeout}
	for _, l := range listeners {
		go func() {
			if err := i.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				i.services.cfg.Log.Warn("answer health checks", "service", i.name.String(), "address", l.Addr().String(), "error", err)
			}
		}()
	}
	return nil
}

// beforeAddress has a socket listen on an address that the node does not have at the moment: one whose link was
// taken down, or a new one of IPv6 that is still looked for in the network.
func beforeAddress(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "tcp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var fault error
	err := c.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, os.NewSyscallError("setsockopt FREEBIND", fault))
}

func (i *instance) close() {
	if i.server != nil {
		_ = i.server.Close()
	}
}

func (i *instance) set(local int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.local = local
}

// ServeHTTP answers as kube-proxy does: 200 where there is a ready endpoint on the node, else 503.
func (i *instance) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	local := i.local
	i.mu.Unlock()
	healthy := i.services.cfg.Healthy(time.Now())
	head := w.Header()
	head.Set("Content-Type", "application/json")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
	if local > 0 && healthy {
		w.WriteHeader(http.StatusOK)
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}",
		i.name.Namespace, i.name.Name, local, healthy)
}
