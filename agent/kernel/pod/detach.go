//go:build linux

package pod

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// leavingGroup is the group of links that are about to be deleted ("weft" in ASCII).
const leavingGroup = 0x77656674

// departure is one call of Detach.
type departure struct {
	hostLink string
	done     chan error
}

// Detach takes the wiring away: both ends, and with them addresses, routes and neighbours. What is
// gone already is no error.
//
// To delete a link, the kernel waits until no CPU can still be using it, 10 ms and more, in which it
// lets nobody else change a link. So calls that come meanwhile wait for each other and are carried out
// together: the kernel then waits once for all.
func (k *Kernel) Detach(hostLink string) error {
	d := &departure{hostLink: hostLink, done: make(chan error, 1)}
	k.mu.Lock()
	k.leaving = append(k.leaving, d)
	k.mu.Unlock()

	host := <-k.sockets
	k.mu.Lock()
	batch := k.leaving
	k.leaving = nil
	k.mu.Unlock()
	host.depart(batch)
	k.sockets <- host
	return <-d.done // perhaps another call's doing
}

func (s *socket) depart(batch []*departure) {
	names := make([]string, len(batch))
	for i, d := range batch {
		names[i] = d.hostLink
	}
	err := s.remove(names...)
	for _, d := range batch {
		d.done <- err
	}
}

// remove deletes the links and what belongs to them, as far as they are there.
func (s *socket) remove(hostLinks ...string) error {
	var there []string
	for _, hostLink := range hostLinks {
		for _, name := range []string{hostLink, ifbName(hostLink)} {
			switch _, err := s.index(name); {
			case err == nil:
				there = append(there, name)
			case !errors.Is(err, unix.ENODEV):
				return err
			}
		}
	}
	switch len(there) {
	case 0:
		return nil
	case 1:
		return unlessGone(s.do([]message{deleteLink(there[0])}))
	}
	for _, name := range there {
		if err := unlessGone(s.do([]message{setGroup(name, leavingGroup)})); err != nil {
			return err
		}
	}
	return unlessGone(s.do([]message{deleteGroup(leavingGroup)}))
}

// unlessGone drops the error that says that a link is not there (any more).
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pod links: %w", err)
	}
	return nil
}

func ifbName(hostLink string) string {
	return state.PodIFBPrefix + strings.TrimPrefix(hostLink, state.PodLinkPrefix)
}
