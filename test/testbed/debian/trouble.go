package debian

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// trouble is why apt-get did not do what it was asked to.
type trouble int

const (
	permanent trouble = iota
	locked
	unreachable
)

// errUnreachable marks the errors of a mirror that could not be reached for all of our patience.
var errUnreachable = errors.New("debian's mirror cannot be reached")

const (
	lockPatience   = 10 * time.Minute // unattended upgrades on a fresh cloud machine take some minutes
	lockRetry      = 3 * time.Second
	mirrorPatience = 2 * time.Minute // a mirror behind a balancer, or a network that is just coming up
	mirrorRetry    = 10 * time.Second
)

// signs of each trouble in the output of apt-get (LC_ALL=C), and for permanent ones what to do. The first that is found counts: a
// permanent one stays so whatever the mirror does.
var signs = []struct {
	text string
	what trouble
	do   string
}{
	{"No space left on device", permanent, "make room on the disk (apt-get clean frees /var/cache/apt)"},
	{"dpkg was interrupted", permanent, "run: dpkg --configure -a"},
	{"unmet dependencies", permanent, "run: apt-get --fix-broken install"},
	{"Unable to locate package", permanent, "the sources in /etc/apt do not have it: add Debian's main section, or install the program by hand"},
	{"has no installation candidate", permanent, "the sources in /etc/apt do not have it: add Debian's main section, or install the program by hand"},
	{"NO_PUBKEY", permanent, "a source's key is not known here: install its keyring, or remove the source from /etc/apt"},
	{"is not valid yet", permanent, "the clock of this machine is behind: set it"},
	{"Permission denied", permanent, "run it as root"},
	{"Could not get lock", locked, ""},
	{"Unable to lock", locked, ""},
	{"Unable to acquire the dpkg frontend lock", locked, ""},
	{"Temporary failure resolving", unreachable, ""},
	{"Could not resolve", unreachable, ""},
	{"Could not connect to", unreachable, ""},
	{"Unable to connect to", unreachable, ""},
	{"Cannot initiate the connection to", unreachable, ""},
	{"Connection failed", unreachable, ""},
	{"Connection timed out", unreachable, ""},
	{"connection timed out", unreachable, ""},
	{"Connection refused", unreachable, ""},
	{"Connection reset by peer", unreachable, ""},
	{"Network is unreachable", unreachable, ""},
	{"No route to host", unreachable, ""},
	{"Error reading from server", unreachable, ""},
	{"  500  ", unreachable, ""},
	{"  502  ", unreachable, ""},
	{"  503  ", unreachable, ""},
	{"  504  ", unreachable, ""},
}

const doOtherwise = "see what apt-get said below; `testbed deps --check` lists what is missing, to be installed by hand"

// judge tells the trouble in what apt-get printed: permanent unless it is known to pass.
func judge(output string) trouble {
	what, _ := find(output)
	return what
}

func find(output string) (what trouble, do string) {
	for _, s := range signs {
		if strings.Contains(output, s.text) {
			return s.what, s.do
		}
	}
	return permanent, doOtherwise
}

// retry tells whether to try again after all this time, and how long to wait before.
func (t trouble) retry(since time.Duration) (wait time.Duration, again bool) {
	switch t {
	case locked:
		return lockRetry, since < lockPatience
	case unreachable:
		return mirrorRetry, since+mirrorRetry <= mirrorPatience
	case permanent:
	}
	return 0, false
}

// progress is what the user sees while we wait.
func (t trouble) progress(since time.Duration) string {
	if t == locked {
		return "Another package manager is at work; waiting for it."
	}
	return fmt.Sprintf("Debian's mirror cannot be reached; trying again in %s, for %s more.", mirrorRetry, (mirrorPatience - since).Round(time.Second))
}

// failure says what to do. The cause may be nil: apt-get calls an update of nothing a success.
func (t trouble) failure(verb, output string, cause error) error {
	output = strings.TrimSpace(output)
	switch t {
	case unreachable:
		return fmt.Errorf("apt-get %s: %w, for %s: check this machine's network, DNS and proxy, or name another mirror in /etc/apt\n%s",
			verb, errUnreachable, mirrorPatience, output)
	case locked:
		return fmt.Errorf("apt-get %s: another package manager has held the lock for %s: end it, or wait for it and try again: %w\n%s", verb, lockPatience, cause, output)
	case permanent:
	}
	_, do := find(output)
	return fmt.Errorf("apt-get %s: %w: %s\n%s", verb, cause, do, output)
}
