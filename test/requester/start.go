//go:build linux

package requester

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/weftnet/weftnet/test/nstest"
)

// Place is where requests come from.
type Place struct {
	Namespace *nstest.Namespace
	// Cgroup (version 2) is the folder of the one that the process is in; empty for that of the test.
	Cgroup string
	// Failed is called for each failure when it happens, from one goroutine; nil for nobody.
	Failed func(Failure)
}

// Process makes requests.
type Process struct {
	stop   func()
	done   chan struct{}
	report *Report
}

// Start begins with the order. The process ends with the test at the latest.
func Start(t *testing.T, at Place, o Order) *Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), env+"=1"), os.Stderr
	// Its place is another machine or Pod. Where the kernel shares the processors among sessions (CONFIG_SCHED_AUTOGROUP) it does
	// not have to share those of the test, and so it begins requests, and reads answers, in time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if at.Cgroup != "" {
		dir, err := os.Open(at.Cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = dir.Close() }()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	at.Namespace.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("start a process that makes requests: %v", err)
	}
	p := &Process{done: make(chan struct{}), stop: sync.OnceFunc(func() { _ = in.Close() })}
	go func() {
		defer close(p.done)
		p.receive(json.NewDecoder(out), at.Failed)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { p.stop(); <-p.done })
	if err := json.NewEncoder(in).Encode(o); err != nil {
		t.Fatalf("give the order to make requests: %v", err)
	}
	return p
}

func (p *Process) receive(lines *json.Decoder, failed func(Failure)) {
	for {
		var m message
		if lines.Decode(&m) != nil {
			return
		}
		if m.Failure != nil && failed != nil {
			failed(*m.Failure)
		}
		if m.Report != nil {
			p.report = m.Report
		}
	}
}

// Stop lets it begin no more requests, and does not wait for those that are under way.
func (p *Process) Stop() { p.stop() }

// End stops it, waits for the requests that are under way, and gives the report.
func (p *Process) End() (Report, error) {
	p.stop()
	<-p.done
	if p.report == nil {
		return Report{}, fmt.Errorf("the process that makes requests has ended without a report")
	}
	return *p.report, nil
}
