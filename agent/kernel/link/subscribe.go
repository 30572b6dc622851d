package link

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Event says that links or their addresses have changed since the last one. It is a hint to look
// again, not the change itself: what happens while nobody receives is merged into one event.
type Event struct {
	// Links are the names of those that changed, sorted.
	Links []string
	// Pods says that host ends of Pods have changed, whose names are not among Links.
	Pods bool
	// Lost is true when the kernel dropped messages, so that anything may have changed.
	Lost bool
}

func (e Event) empty() bool { return len(e.Links) == 0 && !e.Pods && !e.Lost }

// podLink tells the links whose coming and going is agent/kernel/pod's affair. A burst of Pods must
// not make the mesh look again for each.
func podLink(name string) bool {
	return strings.HasPrefix(name, "weftp") || strings.HasPrefix(name, "weftb")
}

// Subscribe reports every change to a link or an address in the network namespace of the calling
// thread, those of Pods without their names, until the context ends; then the channel is closed.
func (k *Kernel) Subscribe(ctx context.Context) (<-chan Event, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link and address changes: %w", err)
	}
	// A burst of Pods is thousands of messages; without the capability the default stays.
	_ = socket.SetReceiveBufferSize(1<<20, true)
	links, err := Dump(k.nl.LinkList)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("list links: %w", err)
	}
	w := watcher{names: make(map[int]string, len(links))}
	for _, l := range links {
		w.names[l.Attrs().Index] = l.Attrs().Name
	}
	raw, out := make(chan Event), make(chan Event)
	go func() { <-ctx.Done(); socket.Close() }()
	go w.receive(ctx, socket, raw)
	go merge(ctx, raw, out)
	return out, nil
}

// watcher knows the names of links, since a message about an address has only the index.
type watcher struct {
	names map[int]string
}

func (w *watcher) receive(ctx context.Context, socket *nl.NetlinkSocket, out chan<- Event) {
	defer close(out)
	for {
		messages, _, err := socket.Receive()
		if ctx.Err() != nil {
			return
		}
		var event Event
		switch {
		case err == nil:
			event.Links, event.Pods = w.changed(messages)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENOBUFS):
			event.Lost = true
		default:
			return // the socket is gone; the closed channel says so
		}
		if !event.empty() {
			select {
			case out <- event:
			case <-ctx.Done():
				return
			}
		}
	}
}

// changed lists the links that the messages are about, and tells whether Pods' are among them.
func (w *watcher) changed(messages []syscall.NetlinkMessage) (names []string, pods bool) {
	for i := range messages {
		switch name := w.name(&messages[i]); {
		case name == "":
		case podLink(name):
			pods = true
		default:
			names = append(names, name)
		}
	}
	return names, pods
}

func (w *watcher) name(m *syscall.NetlinkMessage) string {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		header := unix.NlMsghdr(m.Header)
		l, err := netlink.LinkDeserialize(&header, m.Data)
		if err != nil {
			return ""
		}
		attrs := l.Attrs()
		w.names[attrs.Index] = attrs.Name
		if m.Header.Type == unix.RTM_DELLINK {
			delete(w.names, attrs.Index)
		}
		return attrs.Name
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) >= unix.SizeofIfAddrmsg {
			return w.names[int(nl.DeserializeIfAddrmsg(m.Data).Index)]
		}
	}
	return ""
}

// merge hands on what came in, and gathers while nobody takes it.
func merge(ctx context.Context, in <-chan Event, out chan<- Event) {
	defer close(out)
	var pending Event
	for {
		ready := out
		if pending.empty() {
			ready = nil
		}
		select {
		case event, open := <-in:
			if !open {
				return
			}
			pending.Lost, pending.Pods = pending.Lost || event.Lost, pending.Pods || event.Pods
			pending.Links = append(pending.Links, event.Links...)
			slices.Sort(pending.Links)
			pending.Links = slices.Compact(pending.Links)
		case ready <- pending:
			pending = Event{}
		case <-ctx.Done():
			return
		}
	}
}
