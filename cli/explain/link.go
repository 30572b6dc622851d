package explain

import (
	"fmt"
	"time"

	"github.com/weftnet/weftnet/cli/view"
)

const (
	// heardLately is how young the last packet of a peer is that goes on trying: a handshake that is not
	// answered is begun anew every 5 s, and every now and then one is late.
	heardLately = 12 * time.Second
	// lateAnswer is how long the answer of a living peer may take (KEEPALIVE_TIMEOUT), and a look of its agent.
	lateAnswer = 12 * time.Second
)

// links gives what each end's device says of the other, where its agent answered and knows the peer.
func links(a, b side) (ab, ba view.Link, knowAB, knowBA bool) {
	ab, knowAB = a.mesh.Links[a.name][b.name]
	ba, knowBA = a.mesh.Links[b.name][a.name]
	return ab, ba, knowAB, knowBA
}

// silence looks for an end that sends and hears nothing: WireGuard answers whatever carries data within 10 s,
// so that a cut shows long before the handshake grows old. With what both ends say, it tells which way is cut.
func silence(a, b side) []Finding {
	ab, ba, knowAB, knowBA := links(a, b)
	switch {
	case knowBA && ba.Silent() && hears(ab, knowAB):
		return []Finding{lost(a, b, ab, ba)}
	case knowAB && ab.Silent() && hears(ba, knowBA):
		return []Finding{lost(b, a, ba, ab)}
	case knowAB && knowBA && ab.Silent() && ba.Silent():
		return []Finding{between(Broken, a, b, path(a, b, ab), "neither hears the other: %s sends to %s without an answer for %s, %s to %s for %s",
			a.name, ab.Endpoint, age(ab.Unanswered), b.name, ba.Endpoint, age(ba.Unanswered))}
	}
	return append(unanswered(a, b, ab), unanswered(b, a, ba)...)
}

func hears(l view.Link, known bool) bool { return known && l.Heard >= 0 && l.Heard < heardLately }

// lost tells that what one sends does not arrive: the other hears nothing, and is heard.
func lost(from, to side, sends, hears view.Link) Finding {
	return toward(Broken, from, to, path(from, to, sends), "what %s sends to %s does not arrive: %s has had no answer for %s, though %s heard of it %s ago",
		from.name, sends.Endpoint, to.name, age(hears.Unanswered), from.name, age(sends.Heard))
}

// unanswered judges by what one end says alone.
func unanswered(from, to side, link view.Link) []Finding {
	level := Suspect
	switch {
	case link.Silent():
		level = Broken
	case link.Unanswered < lateAnswer:
		return nil
	}
	return []Finding{toward(level, from, to, path(from, to, link), "what %s sends to %s has had no answer for %s, and any peer answers within 10s: it is down, or one of the two ways is cut",
		from.name, link.Endpoint, age(link.Unanswered))}
}

func toward(level Level, from, to side, do, format string, args ...any) Finding {
	return Finding{Level: level, About: from.name + " -> " + to.name, Text: fmt.Sprintf(format, args...), Do: do}
}

// handshakes judges each direction by what the sender's device says.
func handshakes(a, b side) []Finding {
	if _, _, ok := both(a, b); !ok {
		return nil
	}
	return append(direction(a, b), direction(b, a)...)
}

func direction(from, to side) []Finding {
	tell := func(level Level, do, format string, args ...any) []Finding {
		return []Finding{toward(level, from, to, do, format, args...)}
	}
	if unasked, ok := from.mesh.Unasked[from.name]; ok {
		return tell(Note, "", "what the WireGuard device on %s says is not known: %s", from.name, unasked.Why)
	}
	links, asked := from.mesh.Links[from.name]
	if !asked {
		return nil
	}
	link, known := links[to.name]
	switch {
	case !known && from.mesh.MeshNode(to.name).Status.PublicKey == "":
		return nil // published tells it
	case !known:
		return tell(Broken, "see the agent's logs on "+from.name, "its device has no such peer, though the peer has published a key")
	case link.Alive():
		return tell(Note, "", "last handshake %s ago with %s, %d bytes received, %d sent", age(link.Handshake), link.Endpoint, link.Received, link.Sent)
	case link.Handshake < 0 && link.Received > 0:
		return tell(Broken, path(from, to, link), "no handshake yet, though %d bytes came from %s: what %s sends is lost, or one of the two does not have the other's current key",
			link.Received, link.Endpoint, from.name)
	case link.Handshake < 0:
		return tell(Broken, path(from, to, link), "no handshake yet: %d bytes sent to %s, none received", link.Sent, link.Endpoint)
	default:
		// WireGuard is silent where nobody has anything to say, so an old handshake alone proves
		// nothing: the next packet makes a new one.
		return tell(Suspect, path(from, to, link), "the last handshake was %s ago, too old for a session (limit %s)", age(link.Handshake), view.HandshakeLimit)
	}
}

func path(from, to side, link view.Link) string {
	return fmt.Sprintf("is UDP from %s to %s open, and back? Firewalls and security groups must let the WireGuard port through in both directions; "+
		"also compare the key on %s with `kubectl get meshnode %s -o yaml`", from.name, link.Endpoint, to.name, to.name)
}

func age(d time.Duration) time.Duration { return d.Round(time.Second) }
