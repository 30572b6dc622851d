//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroup is the group on whose processes the programs work, those of all groups below it included.
type cgroup struct {
	path string
	id   uint64
}

// openCgroup identifies a cgroup by the number of its folder, which is the kernel's number for it on
// machines of 64 bits.
func openCgroup(path string) (cgroup, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return cgroup{}, fmt.Errorf("find cgroup %s: %w", path, err)
	}
	return cgroup{path, s.Ino}, nil
}

// holds says whether a pinned link is on the cgroup. A link whose cgroup was removed is on none.
func (g cgroup) holds(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	at := info.Cgroup()
	return at != nil && at.CgroupId == g.id
}

// attach lets the cgroup use a program, in the place of the one pinned there, if any: in one step,
// so that no connection is missed. It tells whether there was none.
func attach(g cgroup, h hook, program *ebpf.Program, pin string) (anew bool, err error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil && g.holds(l) {
		defer l.Close()
		if err := l.Update(program); err != nil {
			return false, fmt.Errorf("replace program %s: %w", h.program, err)
		}
		return false, nil
	}
	if err == nil {
		_ = l.Close()
	}
	// Nothing, or a link to a cgroup that is not ours any more, or no link at all.
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("clear the place of %s: %w", h.program, err)
	}
	fresh, err := attachNew(g, h, program)
	if err != nil {
		return false, err
	}
	// The pin keeps it. Without a descriptor of ours, removing the pin is all it takes to switch off.
	defer fresh.Close()
	if err := fresh.Pin(pin); err != nil {
		return false, fmt.Errorf("pin %s: %w", pin, err)
	}
	return true, nil
}

func attachNew(g cgroup, h hook, program *ebpf.Program) (*link.RawLink, error) {
	dir, err := os.Open(g.path)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	defer dir.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: program, Attach: h.attach})
	if err != nil {
		return nil, fmt.Errorf("attach %s to %s: %w", h.program, g.path, err)
	}
	return l, nil
}

// attached says what is wrong with a hook: nil when the program is in its place.
func attached(g cgroup, h hook, program *ebpf.Program, pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return fmt.Errorf("%s is not in its place: %w", h.program, err)
	}
	defer l.Close()
	if !g.holds(l) {
		return fmt.Errorf("%s is not attached to %s", h.program, g.path)
	}
	have, err := l.Info()
	if err != nil {
		return err
	}
	want, err := program.Info()
	if err != nil {
		return fmt.Errorf("look at program %s: %w", h.program, err)
	}
	if id, _ := want.ID(); have.Program != id {
		return fmt.Errorf("another program is in the place of %s", h.program)
	}
	return nil
}

// openLasting opens the tables that outlive the others, or makes those that are not there or are of
// another version's form.
func openLasting(dir string) (map[string]*ebpf.Map, error) {
	s, err := spec(size{1, 1, 1}, false)
	if err != nil {
		return nil, err
	}
	out := map[string]*ebpf.Map{}
	for _, name := range lasting {
		m, err := openPinned(s.Maps[name], filepath.Join(dir, name))
		if err != nil {
			closeMaps(out)
			return nil, err
		}
		out[name] = m
	}
	return out, nil
}

func openPinned(s *ebpf.MapSpec, pin string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err == nil && s.Compatible(m) == nil {
		return m, nil
	}
	if err == nil {
		_ = m.Close()
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clear the place of table %s: %w", s.Name, err)
	}
	if m, err = ebpf.NewMap(s); err != nil {
		return nil, fmt.Errorf("make table %s: %w", s.Name, err)
	}
	if err := m.Pin(pin); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("pin table %s: %w", s.Name, err)
	}
	return m, nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

// Remove takes away what is pinned in dir, and with it the programs, at once. Connections stay as
// they are. It tells whether there was anything.
func Remove(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list %s: %w", dir, err)
	}
	if err := onBPFFS(dir); err != nil {
		return false, err
	}
	var faults []error
	// The programs' names sort after those of the tables; programs go first.
	for _, e := range slices.Backward(entries) {
		path := filepath.Join(dir, e.Name())
		detach(path)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("unpin %s: %w", path, err))
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults = append(faults, fmt.Errorf("remove %s: %w", dir, err))
	}
	return true, errors.Join(faults...)
}

// detach ends a link at once (Linux 5.9). Without its pin it ends as well, a moment later.
func detach(pin string) {
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		_ = l.Detach()
		_ = l.Close()
	}
}

// onBPFFS makes sure that a folder is on a bpf file system: elsewhere nothing can be pinned.
func onBPFFS(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if s.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a bpf file system (mount -t bpf bpf /sys/fs/bpf; systemd does)", dir)
	}
	return nil
}
