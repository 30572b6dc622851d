package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/weftnet/weftnet/test/testbed/audit"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/pki"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// StartAudit starts a leak audit of the underlay inside this process: for the
// cluster's Pod and mesh addresses, and for further prefixes.
func (c *Cluster) StartAudit(ctx context.Context, more ...netip.Prefix) (*audit.Audit, error) {
	state, err := c.State()
	if err != nil {
		return nil, err
	}
	return audit.Start(ctx, audit.Config{
		Link:     layout.Bridge,
		Prefixes: append(layout.PodCIDRs(state.Options.Family), more...),
		Probes:   c.probes,
	})
}

// probes are the places next to the bridge's ports: the nodes, or the routers
// in front of them.
func (c *Cluster) probes() []audit.Probe {
	state, err := c.State()
	if err != nil {
		return nil
	}
	var out []audit.Probe
	for _, n := range state.NodeList() {
		probe := audit.Probe{NetNS: n.String(), Link: "eth0"}
		if state.Nodes[n.String()].NAT != "" {
			probe = audit.Probe{NetNS: n.Router(), Link: "out"}
		}
		out = append(out, probe)
	}
	return out
}

// AuditCommand is the testbed's hidden command that calls RunAudit.
const AuditCommand = "audit-run"

const (
	auditWrite = time.Second
	auditGrace = 15 * time.Second
)

func (c *Cluster) auditFile() string { return c.Layout.Path("audit", "report.json") }

// BeginAudit starts a leak audit that outlives this command. A second call
// starts it anew.
func (c *Cluster) BeginAudit(ctx context.Context) error {
	return c.change(true, func(s *session) error {
		if err := s.rec.State().Audit.Stop(ctx, auditGrace); err != nil {
			return err
		}
		if err := os.RemoveAll(s.Layout.Path("audit")); err != nil {
			return fmt.Errorf("remove the last audit: %w", err)
		}
		if err := os.MkdirAll(s.Layout.Path("audit"), 0o755); err != nil {
			return fmt.Errorf("make the audit's folder: %w", err)
		}
		p, err := proc.Start(proc.Spec{Path: s.program, Args: []string{AuditCommand}, Dir: s.Layout.Root, Log: s.Layout.Log("audit")})
		if err != nil {
			return err
		}
		if err := s.rec.Update(func(state *record.State) { state.Audit = p }); err != nil {
			return err
		}
		return s.awaitAudit(ctx, p)
	})
}

// awaitAudit waits for the first report, which comes after the first proof.
func (s *session) awaitAudit(ctx context.Context, p proc.Process) error {
	ctx, cancel := context.WithTimeout(ctx, auditGrace)
	defer cancel()
	err := proc.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		if _, err := os.Stat(s.auditFile()); err == nil {
			return true, nil
		}
		if !p.Alive() {
			log, _ := os.ReadFile(s.Layout.Log("audit"))
			return false, errors.New(strings.TrimSpace(string(log)))
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("start the leak audit: %w", err)
	}
	return nil
}

// RunAudit is the process behind BeginAudit: it keeps the report on disk
// until it is told to end.
func (c *Cluster) RunAudit(ctx context.Context) error {
	a, err := c.StartAudit(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(auditWrite)
	defer tick.Stop()
	for {
		if err := c.writeReport(a.Report()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			report, err := a.Stop(context.WithoutCancel(ctx))
			return errors.Join(err, c.writeReport(report))
		}
	}
}

func (c *Cluster) writeReport(r audit.Report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the audit's report: %w", err)
	}
	return pki.WriteFile(c.auditFile(), text, 0o644)
}

// AuditReport reads the report of the audit that BeginAudit started. One that
// ended without being told to is not valid.
func (c *Cluster) AuditReport() (audit.Report, error) {
	text, err := os.ReadFile(c.auditFile())
	if err != nil {
		return audit.Report{}, fmt.Errorf("read the audit's report: %w", err)
	}
	var r audit.Report
	if err := json.Unmarshal(text, &r); err != nil {
		return audit.Report{}, fmt.Errorf("parse the audit's report: %w", err)
	}
	state, err := c.State()
	if err == nil && state.Audit.PID != 0 && !state.Audit.Alive() {
		r.Faults = append(r.Faults, "its process has ended too early")
	}
	return r, err
}

// EndAudit stops the audit and gives its last report.
func (c *Cluster) EndAudit(ctx context.Context) (audit.Report, error) {
	early := false
	err := c.change(true, func(s *session) error {
		running := s.rec.State().Audit
		if running.PID == 0 {
			return errors.New("stop the leak audit: none was started")
		}
		early = !running.Alive()
		if err := running.Stop(ctx, auditGrace); err != nil {
			return err
		}
		return s.rec.Update(func(state *record.State) { state.Audit = proc.Process{} })
	})
	if err != nil {
		return audit.Report{}, err
	}
	r, err := c.AuditReport()
	if early {
		r.Faults = append(r.Faults, "its process has ended too early")
	}
	return r, err
}
