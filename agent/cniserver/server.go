//go:build linux

// Package cniserver answers the CNI plugin over a unix socket: it gives each Pod its addresses, has
// its interface wired and its rules put in force, and writes down what it did before it says so.
//
// What is on disk, in the kernel and in memory can differ after a crash at any point, and only in one
// direction: an attachment is in the log before anything of it is in the kernel, and leaves the log
// after the kernel has let go. So an attachment without a link was never answered for, or lost its
// Pod: its addresses are released. A link that the log does not know is taken in, never its addresses
// given to another.
package cniserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/attachlog"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/cni/wire"
)

// Pods wires Pods; it is agent/kernel/pod.Kernel.
type Pods interface {
	Attach(s pod.Spec) (pod.Wiring, error)
	Detach(hostLink string) error
	Check(s pod.Spec) error
	Observe() ([]pod.Found, error)
	IsHome(netns int) bool
}

// Rules puts in force what the node's rules say of one attachment (its host ports, its place in the
// sets), before its ADD is answered, and takes it away again. Both may be repeated.
type Rules interface {
	Add(ctx context.Context, a state.Attachment) error
	Remove(ctx context.Context, a state.Attachment) error
}

// ErrTryAgain in an error of Rules says that what fails now may soon succeed.
var ErrTryAgain = errors.New("not ready yet")

// Config of a Server.
type Config struct {
	NodeName string
	// Socket is where to listen; empty means wire.DefaultSocket. The queue is beside it.
	Socket string
	// StateDir holds the attachment log.
	StateDir string
	Pods     Pods
	// Rules and Flows may be nil.
	Rules Rules
	Flows Flows
	// Ready tells why no Pod can be added now; nil when the mesh and its rules are in force.
	Ready  func() error
	Logger *slog.Logger
	// Working, when set, is called with each ADD and DEL, and what it returns at the request's end.
	Working func() (done func())
	// Cooldown is how long a released address rests; zero means DefaultCooldown.
	Cooldown time.Duration
	// Step, when set, is called between the steps of a request. Tests end the process there.
	Step func(name string)
}

const (
	// DefaultCooldown outlasts the retransmissions of a connection to a Pod that is gone, and the
	// caches of its address in most clients.
	DefaultCooldown = 30 * time.Second
	// requestLimit bounds a request in the agent, and transferLimit the sending of its frame.
	requestLimit  = 45 * time.Second
	transferLimit = 10 * time.Second
	// takeoverLimit is how long a new agent waits for the old one to finish its requests.
	takeoverLimit = 30 * time.Second
	// maxConnections bounds the requests at once; more wait in the socket's backlog.
	maxConnections = 256
	// healEvery is how often what is lost is looked for.
	healEvery = time.Minute
)

// Server answers the plugin.
type Server struct {
	cfg     Config
	book    *book
	log     *attachlog.Log
	metrics *metrics
	slots   chan struct{}
	// queueing is held while a queued DEL is carried out.
	queueing sync.Mutex

	mu       sync.Mutex
	changed  []chan struct{}
	problems []error
}

// New reads the log, compares it with the kernel and heals what differs. Where it fails, no Pod can be
// added safely.
func New(c Config) (*Server, error) {
	if c.Socket == "" {
		c.Socket = wire.DefaultSocket
	}
	if c.Cooldown == 0 {
		c.Cooldown = DefaultCooldown
	}
	if c.Rules == nil {
		c.Rules = noRules{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Pods == nil || c.Ready == nil {
		return nil, errors.New("the CNI server needs Pods and Ready")
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	log, rec, err := attachlog.Open(attachlog.Config{
		Dir: c.StateDir, Boot: strings.TrimSpace(string(boot)), Now: sinceBoot, KeepReleased: c.Cooldown, LockWait: takeoverLimit,
	})
	if err != nil {
		return nil, fmt.Errorf("open the attachment log: %w", err)
	}
	s := &Server{cfg: c, log: log, slots: make(chan struct{}, maxConnections)}
	var restored []error
	s.book, restored = newBook(log, sinceBoot, c.Cooldown)
	s.metrics = newMetrics(s.book)
	s.note(append(restored, rec.Damage)...)
	if rec.Unwritable != nil {
		c.Logger.Error("the attachment log cannot be written; no Pod can start or end on this node until it can", "error", rec.Unwritable)
	}
	if rec.Torn {
		c.Logger.Info("the last batch of the attachment log was cut short; nobody was told of it", "dir", c.StateDir)
	}
	if err := s.Heal(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("compare the attachment log with the kernel: %w", err), log.Close())
	}
	return s, nil
}

// sinceBoot is a clock that nobody sets and that goes on through suspend and restarts of the agent.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // Linux 2.6.39; it has no other error
	}
	return time.Duration(ts.Nano())
}

// SetNode tells which blocks, reserved addresses and MTU the node has.
func (s *Server) SetNode(n Node) { s.book.setNode(n) }

// Attachments lists those that are there or are being added, sorted by host link. Those whose DEL is
// under way are not among them. Take it after looking at the kernel: then whatever is in the kernel
// and not in the list is on its way out.
func (s *Server) Attachments() []state.Attachment { return s.book.wanted() }

// Present lists those whose ADD was answered and whose DEL has not come, sorted by host link: nobody
// but the kernel is at work on them.
func (s *Server) Present() []state.Attachment { return s.book.present() }

// Standing lists all of which anything may be in the kernel, those whose DEL is under way among them,
// sorted by host link: whatever keeps Pods apart must hold for as long as they have an interface.
func (s *Server) Standing() []state.Attachment { return s.book.standing() }

// Changed delivers a value after Attachments or Standing has changed; changes that follow one another
// closely are one. Every call makes a channel of its own.
func (s *Server) Changed() <-chan struct{} {
	c := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = append(s.changed, c)
	return c
}

// Problems lists what went wrong with the node's records since the start.
func (s *Server) Problems() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error(nil), s.problems...)
}

// Collector gives the metrics of the server and of the node's addresses.
func (s *Server) Collector() prometheus.Collector { return s.metrics }

func (s *Server) note(errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range errs {
		if err != nil {
			s.problems = append(s.problems, err)
			s.cfg.Logger.Error("the node's record of pods is damaged", "error", err)
		}
	}
}

func (s *Server) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (s *Server) step(name string) {
	if s.cfg.Step != nil {
		s.cfg.Step(name)
	}
}

// Run serves until ctx ends, then waits for the requests under way. Afterwards the server is of no
// use. The socket stays: a successor puts its own in its place.
func (s *Server) Run(ctx context.Context) error {
	defer func() { _ = s.log.Close() }()
	queue, err := s.openQueue()
	if err != nil {
		return err
	}
	defer queue.close()
	queue.drain(ctx)
	listener, err := listen(s.cfg.Socket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { queue.run(ctx) })
	work.Go(func() { s.healNowAndThen(ctx) })
	err = s.accept(ctx, listener, &work)
	work.Wait()
	return err
}

// listen puts a socket that only root can open in the place of the path, whatever is there.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the CNI socket: %w", err)
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(temp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the CNI socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("put the CNI socket in its place: %w", err), l.Close(), os.Remove(temp))
	}
	return l, nil
}

func (s *Server) accept(ctx context.Context, l *net.UnixListener, work *sync.WaitGroup) error {
	for {
		s.slots <- struct{}{}
		conn, err := l.AcceptUnix()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on the CNI socket: %w", err)
		}
		work.Go(func() {
			defer func() { <-s.slots }()
			// A request that has begun is finished: the runtime waits for its answer.
			s.serve(context.WithoutCancel(ctx), conn)
		})
	}
}

func (s *Server) healNowAndThen(ctx context.Context) {
	tick := time.NewTicker(healEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.Heal(ctx); err != nil {
				s.cfg.Logger.Warn("compare the attachments with the kernel", "error", err)
			}
		}
	}
}

type noRules struct{}

func (noRules) Add(context.Context, state.Attachment) error    { return nil }
func (noRules) Remove(context.Context, state.Attachment) error { return nil }
