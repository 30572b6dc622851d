package audit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Config says what to watch.
type Config struct {
	// Link is the underlay's bridge.
	Link string
	// Prefixes are the Pod and mesh addresses that must not be seen.
	Prefixes []netip.Prefix
	// WireGuardPort is the port that the mesh listens on; 0 means 51820.
	WireGuardPort uint16
	// Probes are where the audit's own packets come from. At least one must be
	// able to send.
	Probes func() []Probe
}

const (
	defaultPort = 51820
	// proofPatience bounds the wait for the audit's own packets.
	proofPatience = 5 * time.Second
)

// Audit is a running audit.
type Audit struct {
	config Config
	proof  []byte
	ring   *ring
	stop   chan struct{}
	done   chan struct{}

	mu    sync.Mutex
	judge *judge
}

// Start begins to watch, and returns once the audit has found its own packets.
func Start(ctx context.Context, config Config) (*Audit, error) {
	if config.WireGuardPort == 0 {
		config.WireGuardPort = defaultPort
	}
	r, err := openRing(config.Link)
	if err != nil {
		return nil, err
	}
	proof := newProof()
	a := &Audit{
		config: config, proof: proof, ring: r, stop: make(chan struct{}), done: make(chan struct{}),
		judge: newJudge(config.Prefixes, config.WireGuardPort, proof, time.Now()),
	}
	go a.run()
	a.prove(ctx, "start")
	if err := a.Report().Valid(); err != nil {
		_, _ = a.Stop(ctx)
		return nil, err
	}
	return a, nil
}

// run moves frames from the ring to the judge until told to stop.
func (a *Audit) run() {
	defer close(a.done)
	for {
		select {
		case <-a.stop:
			return
		default:
		}
		err := a.ring.wait(100 * time.Millisecond)
		dropped, statErr := a.ring.dropped()
		a.mu.Lock()
		a.ring.read(a.judge.see)
		a.judge.report.Dropped += dropped
		if err := errors.Join(err, statErr); err != nil {
			a.judge.report.Faults = append(a.judge.report.Faults, err.Error())
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}

// prove sends own packets from every probe and waits until they are found.
func (a *Audit) prove(ctx context.Context, phase string) {
	sent := 0
	var errs []error
	for _, p := range a.config.Probes() {
		n, err := p.send(a.proof, phase, a.config.Prefixes)
		sent += n
		errs = append(errs, err)
	}
	if sent == 0 {
		errs = append(errs, fmt.Errorf("no probe could send a packet at the %s", phase))
	}
	a.mu.Lock()
	a.judge.report.Wanted += sent
	if err := errors.Join(errs...); err != nil {
		a.judge.report.Faults = append(a.judge.report.Faults, err.Error())
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, proofPatience)
	defer cancel()
	// What is not found in time shows in the report.
	_ = proc.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		r := a.Report()
		return r.Proofs >= r.Wanted, nil
	})
}

// Report is what was seen so far.
func (a *Audit) Report() Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.judge.snapshot(time.Now())
}

// Stop ends the audit, after a last proof, and returns its report. The error
// says that the audit could not be ended properly; whether it found anything
// is for the report's Err.
func (a *Audit) Stop(ctx context.Context) (Report, error) {
	a.prove(ctx, "end")
	close(a.stop)
	<-a.done
	report := a.Report()
	return report, a.ring.close()
}
