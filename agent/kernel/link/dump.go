package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpAttempts bounds the retries of a dump. A dump is interrupted when its table changes while it
// is read, which a burst of Pods does over and over; ten in a row means something else is wrong.
const dumpAttempts = 10

// Dump calls a function that lists kernel objects again while the list it returned was interrupted
// and so may lack entries. Acting on such a list would delete or add what it should not: every
// netlink dump goes through here.
func Dump[T any](list func() (T, error)) (T, error) {
	var out T
	var err error
	for range dumpAttempts {
		if out, err = list(); err == nil || !interrupted(err) {
			return out, err
		}
	}
	return out, fmt.Errorf("the list changed each of the %d times it was read: %w", dumpAttempts, err)
}

func interrupted(err error) bool {
	return errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, unix.EINTR)
}
