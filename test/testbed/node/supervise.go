package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Service is a program that a node keeps running.
type Service struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Log  string   `json:"log"`
	// After are the listeners to wait for before the start, in this order.
	After []Dial `json:"after,omitempty"`
}

// Dial names a listener and how long to wait for it at most. A node starts
// without the API server too: it only helps to be there before kubelet, whose
// registration retries ever more slowly.
type Dial struct {
	Network string        `json:"network"`
	Address string        `json:"address"`
	Max     time.Duration `json:"max"`
}

const restartDelay = time.Second

// supervisor is a small init: it starts services, starts them again when they
// end, and reaps whatever else ends as its child.
type supervisor struct {
	planFile string
	log      io.Writer
	ready    chan Service
	running  map[int]Service
}

func supervise(planFile string, services []Service, log io.Writer) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	s := &supervisor{planFile: planFile, log: log, ready: make(chan Service), running: map[int]Service{}}
	for _, service := range services {
		go s.await(service, 0)
	}
	for {
		select {
		case service := <-s.ready:
			s.start(service)
		case <-children:
			s.reap()
		}
	}
}

// await hands the service over when it may start.
func (s *supervisor) await(service Service, delay time.Duration) {
	<-time.After(delay)
	for _, d := range service.After {
		d.wait()
	}
	s.ready <- service
}

func (d Dial) wait() {
	for end := time.Now().Add(d.Max); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		conn, err := net.DialTimeout(d.Network, d.Address, time.Second)
		if err == nil {
			_ = conn.Close()
			return
		}
	}
}

// start avoids os/exec, whose Wait would contend with reap.
func (s *supervisor) start(service Service) {
	service = s.asPlanned(service)
	pid, err := fork(service)
	if err != nil {
		fmt.Fprintf(s.log, "start %s: %v\n", service.Name, err)
		go s.await(service, restartDelay)
		return
	}
	s.running[pid] = service
	fmt.Fprintf(s.log, "%s started %s as process %d\n", stamp(), service.Name, pid)
}

// asPlanned is the service as the plan on disk has it now, which may have changed since the boot.
func (s *supervisor) asPlanned(service Service) Service {
	plan, err := readPlan(s.planFile)
	if err != nil {
		fmt.Fprintf(s.log, "start %s as before: %v\n", service.Name, err)
		return service
	}
	for _, now := range plan.Services {
		if now.Name == service.Name {
			return now
		}
	}
	return service
}

func fork(service Service) (int, error) {
	log, err := os.OpenFile(service.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("open the null device: %w", err)
	}
	defer null.Close()
	return syscall.ForkExec(service.Path, append([]string{service.Path}, service.Args...), &syscall.ProcAttr{
		Env:   append(os.Environ(), service.Env...),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		service, ours := s.running[pid]
		if !ours {
			continue
		}
		delete(s.running, pid)
		fmt.Fprintf(s.log, "%s %s ended with %s\n", stamp(), service.Name, exitOf(syscall.WaitStatus(status)))
		go s.await(service, restartDelay)
	}
}

func stamp() string { return time.Now().UTC().Format("15:04:05.000") }
