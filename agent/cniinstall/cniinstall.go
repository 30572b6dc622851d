//go:build linux

// Package cniinstall puts the CNI plugin and its configuration on the host, and keeps them there.
//
// The configuration is what makes a container runtime use the plugin, and a node ready, so it comes
// last: after the mesh is in force and after the plugin is in its place. Each file appears whole or
// not at all. Once there, the configuration stays, whatever becomes of the agent: the runtime asks the
// plugin (STATUS) whether it works.
//
// An earlier CNI plugin's configuration is not touched, unless asked for: Weftnet's sorts before it, and
// runtimes take the first. New Pods are then Weftnet's, each wholly; those that run keep the interface
// that they have until they are made anew.
package cniinstall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/durable"
)

// The names on the host.
const (
	PluginName = "weftnet"
	// LoopbackName is the plugin that some runtimes want beside that of the network, to bring up the
	// loopback of each Pod. Hosts whose distribution brings none get a link to ours.
	LoopbackName = "loopback"
	ConfName     = "05-weftnet.conflist"
	// DisabledSuffix marks another plugin's configuration that was set aside.
	DisabledSuffix = ".weftnet-disabled"
)

// Config of an Installer.
type Config struct {
	// Plugin is the file to install as BinDir/weftnet.
	Plugin string
	// BinDir and ConfDir are the runtime's folders, /opt/cni/bin and /etc/cni/net.d, as mounted.
	BinDir, ConfDir string
	// Socket is the agent's socket as the host sees it.
	Socket string
	// Ready tells why the configuration may not be installed yet; nil when it may.
	Ready func() error
	// DisableOthers sets other plugins' configurations aside once Weftnet's is in force.
	DisableOthers bool
	Logger        *slog.Logger
}

const (
	// askEvery is how often Ready is asked before the configuration is there, and the first pause after an
	// installation that failed; each further one is twice as long, up to longestPause.
	askEvery     = 200 * time.Millisecond
	longestPause = 5 * time.Second
	// lookEvery is how often the files are compared when nothing tells of a change.
	lookEvery = 30 * time.Second
)

// Installer keeps the plugin and its configuration on the host.
type Installer struct {
	cfg Config
	// installed says that everything was in its place once: from then on it stays, whatever Ready says.
	installed bool
	// waiting, fault and rival are what was last said of each, so that it is said once.
	waiting, fault, rival string
}

// New makes an installer.
func New(c Config) *Installer {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Installer{cfg: c}
}

// Run installs when the agent is ready, and again whenever somebody has changed or removed what it
// installed, until ctx ends. What is installed stays.
func (i *Installer) Run(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(i.cfg.BinDir, 0o755), os.MkdirAll(i.cfg.ConfDir, 0o755)); err != nil {
		return fmt.Errorf("make the folders of the CNI plugin: %w", err)
	}
	events, stop, err := watch(ctx, i.cfg.BinDir, i.cfg.ConfDir)
	if err != nil { // the node has no inotify instance left, as is common: no reason to leave it without a network
		i.cfg.Logger.Warn("nobody tells of changes in the folders of the CNI plugin; looking now and then", "every", lookEvery, "error", err)
	} else {
		defer stop()
	}
	var pause time.Duration
	for {
		pause = i.try(pause)
		hear := events
		if pause != lookEvery {
			hear = nil // what an attempt itself does to the folders would call for the next one at once
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-hear:
			timer.Stop()
		}
	}
}

// try installs once the agent is ready, and says when to look again: after lookEvery, when everything is in its
// place. last is the pause before.
func (i *Installer) try(last time.Duration) time.Duration {
	if !i.installed {
		if err := i.cfg.Ready(); err != nil {
			if differs(&i.waiting, err.Error()) {
				i.cfg.Logger.Info("the CNI configuration waits", "for", err)
			}
			return askEvery
		}
	}
	if err := i.Install(); err != nil {
		if differs(&i.fault, err.Error()) {
			i.cfg.Logger.Error("the CNI plugin cannot be installed; trying again; without it no Pod can start on this node", "error", err)
		}
		if last == lookEvery {
			return askEvery
		}
		return min(max(2*last, askEvery), longestPause)
	}
	i.installed = true
	if differs(&i.fault, "") {
		i.cfg.Logger.Info("the CNI plugin is installed again")
	}
	return lookEvery
}

// differs tells whether what is to be said was not said last, and notes it.
func differs(said *string, text string) bool {
	before := *said
	*said = text
	return text != before
}

// Install writes what is missing or differs: the plugin, then its configuration.
func (i *Installer) Install() error {
	plugin, err := os.ReadFile(i.cfg.Plugin)
	if err != nil {
		return fmt.Errorf("read the CNI plugin: %w", err)
	}
	conf, err := Conflist(i.cfg.Socket)
	if err != nil {
		return err
	}
	if err := i.ensure(filepath.Join(i.cfg.BinDir, PluginName), plugin, 0o755); err != nil {
		return err
	}
	if err := i.ensureLoopback(); err != nil {
		return err
	}
	if err := i.ensure(filepath.Join(i.cfg.ConfDir, ConfName), conf, 0o644); err != nil {
		return err
	}
	return i.others()
}

func (i *Installer) ensure(path string, want []byte, mode fs.FileMode) error {
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, want) {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm() == mode {
			return nil
		}
	}
	if err := errors.Join(durable.RemoveTemporary(path), durable.Writer{}.Replace(path, want, mode)); err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	i.cfg.Logger.Info("installed", "path", path)
	return nil
}

// ensureLoopback links the loopback plugin to ours where the host has none.
func (i *Installer) ensureLoopback() error {
	path := filepath.Join(i.cfg.BinDir, LoopbackName)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := removeOwnLink(path); err != nil { // one of ours that leads nowhere
		return err
	}
	if err := os.Symlink(PluginName, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("install %s: %w", path, err)
	}
	i.cfg.Logger.Info("installed", "path", path)
	return nil
}

// removeOwnLink removes a link to our plugin, and nothing else.
func removeOwnLink(path string) error {
	if target, err := os.Readlink(path); err != nil || target != PluginName {
		return nil //nolint:nilerr // no link, or not ours
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// others sees to the configurations of other plugins: one that sorts before ours is what the runtime
// takes, which the user has to know of.
func (i *Installer) others() error {
	names, err := confFiles(i.cfg.ConfDir)
	if err != nil {
		return err
	}
	rival := ""
	for _, name := range names {
		path := filepath.Join(i.cfg.ConfDir, name)
		switch {
		case name == ConfName:
		case i.cfg.DisableOthers:
			if err := os.Rename(path, path+DisabledSuffix); err != nil {
				return fmt.Errorf("set another CNI configuration aside: %w", err)
			}
			i.cfg.Logger.Info("set another CNI configuration aside", "path", path+DisabledSuffix)
		case name < ConfName:
			rival = path
		}
	}
	if differs(&i.rival, rival) && rival != "" {
		i.cfg.Logger.Warn("another CNI configuration sorts before Weftnet's: the runtime uses that one", "path", rival, "ours", ConfName)
	}
	return nil
}

// confFiles lists the files that a runtime reads as configurations, sorted.
func confFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list CNI configurations: %w", err)
	}
	var names []string
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Conflist is the configuration for an agent that listens on the socket. Runtimes that know no list
// of versions take 1.0.0; the others take the highest that they speak, and with 1.1.0 ask for STATUS.
func Conflist(socket string) ([]byte, error) {
	type plugin struct {
		Type         string          `json:"type"`
		Socket       string          `json:"socket"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	list := struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
		Plugins     []plugin `json:"plugins"`
	}{
		CNIVersion: "1.0.0", CNIVersions: []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, Name: "weftnet",
		Plugins: []plugin{{Type: PluginName, Socket: socket, Capabilities: map[string]bool{"portMappings": true, "bandwidth": true}}},
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("format the CNI configuration: %w", err)
	}
	return append(text, '\n'), nil
}

// watch tells of changes in the folders, many at once as one.
func watch(ctx context.Context, dirs ...string) (<-chan struct{}, func(), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch the folders of the CNI plugin: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_CLOSE_WRITE|unix.IN_ATTRIB|unix.IN_ONLYDIR); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), f.Close())
		}
	}
	events := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		buf := make([]byte, 16<<10)
		for {
			if _, err := f.Read(buf); err != nil {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, func() { stop(); _ = f.Close() }, nil
}
