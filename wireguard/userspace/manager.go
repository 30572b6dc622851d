// Package userspace runs wireguard-go for the agent: one device for each request file, on a TUN
// link that outlives the process. Level-triggered: it compares the requests with what runs, so
// that a missed event, a crash or somebody deleting the link all end the same way.
//
// While the process is down its TUN links stand without a reader and drop what is sent into them:
// routes and addresses survive, and nothing leaves in the clear.
package userspace

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weftnet/weftnet/wireguard/request"
)

// Config of a Manager. All fields must be set.
type Config struct {
	// RequestDir has the agent's requests and keeps the last configuration of each device.
	RequestDir string
	// SocketDir has one UAPI socket per device, where wgctrl looks for it.
	SocketDir string
	// Adopt marks a link as ours.
	Adopt func(name string) error
	Log   *slog.Logger
}

// SocketDir is where wgctrl looks for UAPI sockets.
const SocketDir = "/var/run/wireguard"

const (
	// checkEvery is how often requests and devices are looked at when no event tells to.
	checkEvery = time.Second
	// saveEvery is how often endpoints that peers roamed to are saved, in case of a crash.
	saveEvery = 30 * time.Second
	// aliveWithin is how old the last look may be for the process to be called alive.
	aliveWithin = 30 * time.Second
)

// Manager runs the devices that are requested.
type Manager struct {
	config Config

	mu      sync.Mutex
	tunnels map[string]*tunnel
	// starts counts how often each device was started.
	starts map[string]int
	// faults are the reasons per device why it does not run.
	faults  map[string]string
	checked time.Time
}

// New makes a Manager that runs nothing yet.
func New(config Config) *Manager {
	return &Manager{config: config, tunnels: map[string]*tunnel{}, starts: map[string]int{}, faults: map[string]string{}}
}

// Run serves requests until the context ends, then saves and closes every device and leaves its
// TUN link in place for the next process.
func (m *Manager) Run(ctx context.Context) error {
	if err := os.MkdirAll(m.config.RequestDir, 0o700); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil { // the node has no inotify instance left: the ticker finds every request
		m.config.Log.Warn("watch requests", "error", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer func() { _ = watcher.Close() }()
		if err := watcher.Add(m.config.RequestDir); err != nil {
			return err
		}
	}
	defer m.stop()
	m.loop(ctx, watcher.Events, watcher.Errors)
	return nil
}

func (m *Manager) loop(ctx context.Context, events <-chan fsnotify.Event, faults <-chan error) {
	check, save := time.NewTicker(checkEvery), time.NewTicker(saveEvery)
	defer check.Stop()
	defer save.Stop()
	for ctx.Err() == nil {
		ended := m.reconcile(time.Now())
		select {
		case <-ctx.Done():
		case <-check.C:
		case <-events:
		case err := <-faults:
			m.config.Log.Warn("watch requests", "error", err) // the ticker goes on
		case <-save.C:
			m.save()
		case <-ended:
		}
	}
}

// reconcile makes what runs equal to what is requested. The channel closes when a device ends.
func (m *Manager) reconcile(now time.Time) <-chan struct{} {
	requests, faults := request.List(m.config.RequestDir)
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[string]request.Request, len(requests))
	for _, r := range requests {
		wanted[r.Name] = r
	}
	previous := m.faults
	m.faults = map[string]string{}
	if sure := m.reportFaults(faults, previous, wanted); sure {
		m.removeUnwanted(wanted)
	}
	var ended <-chan struct{}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if err := m.ensure(wanted[name]); err != nil {
			m.fault(name, err, previous)
		}
		if t := m.tunnels[name]; t != nil {
			ended = t.device.Wait()
		}
	}
	m.checked = now
	return ended
}

// reportFaults keeps devices whose request is in doubt, and says whether the rest of the list may
// be believed.
func (m *Manager) reportFaults(faults []error, previous map[string]string, wanted map[string]request.Request) bool {
	sure := true
	for _, err := range faults {
		var f *request.Fault
		if !errors.As(err, &f) {
			m.fault("", err, previous)
			sure = false
			continue
		}
		m.fault(f.Name, err, previous)
		if t := m.tunnels[f.Name]; t != nil {
			wanted[f.Name] = t.request
		}
	}
	return sure
}

func (m *Manager) removeUnwanted(wanted map[string]request.Request) {
	for name, t := range m.tunnels {
		if _, want := wanted[name]; !want {
			t.remove()
			delete(m.tunnels, name)
			m.config.Log.Info("device removed", "device", name)
		}
	}
	for _, name := range savedDevices(m.config.RequestDir) {
		if _, want := wanted[name]; !want {
			removeSaved(m.config.RequestDir, name)
		}
	}
}

func (m *Manager) ensure(r request.Request) error {
	if t := m.tunnels[r.Name]; t != nil {
		if t.running() {
			t.check()
			return nil
		}
		m.config.Log.Warn("device ended, its link was deleted or taken; starting it again", "device", r.Name)
		t.close()
		delete(m.tunnels, r.Name)
	}
	t, err := start(m.config, r)
	if err != nil {
		return err
	}
	m.tunnels[r.Name] = t
	m.starts[r.Name]++
	m.config.Log.Info("device started", "device", r.Name, "mtu", r.MTU, "restored_peers", t.restored)
	return nil
}

// fault notes why a device does not run, and logs it when it is not what it was.
func (m *Manager) fault(device string, err error, previous map[string]string) {
	m.faults[device] = err.Error()
	if previous[device] != err.Error() {
		m.config.Log.Error("device does not run", "device", device, "error", err)
	}
}

func (m *Manager) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tunnels {
		t.save()
	}
}

func (m *Manager) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, t := range m.tunnels {
		t.save()
		t.close()
		delete(m.tunnels, name)
	}
}

// Alive tells whether the loop still turns.
func (m *Manager) Alive(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.checked) < aliveWithin
}

// Ready tells whether every requested device runs, and if not, why.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(m.faults)) {
		faults = append(faults, errors.New(m.faults[name]))
	}
	return errors.Join(faults...)
}
