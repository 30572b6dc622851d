package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	lockPatience = 10 * time.Minute // unattended upgrades on a fresh cloud machine take some minutes
	lockRetry    = 3 * time.Second
)

// Options of Ensure.
type Options struct {
	Purposes []string  // empty: Cluster
	Progress io.Writer // nil: silent
}

// Ensure makes every need of the purposes be there, or returns an error that lists what is missing and how to get it.
func Ensure(ctx context.Context, o Options) error {
	if len(o.Purposes) == 0 {
		o.Purposes = []string{Cluster}
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	all, err := Needs(o.Purposes...)
	if err != nil {
		return err
	}
	missing := Missing(all, present)
	if len(missing) == 0 {
		return nil
	}
	if reason := cannotInstall(); reason != "" {
		return errors.New(advice(missing, reason))
	}
	if err := Install(ctx, o.Progress, packagesOf(missing)...); err != nil {
		return err
	}
	if missing = Missing(all, present); len(missing) > 0 {
		return errors.New(advice(missing, "installing their packages did not bring them"))
	}
	return nil
}

func packagesOf(needs []Need) (out []string) {
	for _, n := range needs {
		out = append(out, n.Package)
	}
	return out
}

// present also looks where root's programs are when the caller's PATH does not name them, as on Debian for other users.
func present(probe string) bool {
	if strings.Contains(probe, "/") {
		_, err := os.Stat(probe)
		return err == nil
	}
	if _, err := exec.LookPath(probe); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if info, err := os.Stat(dir + "/" + probe); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

func cannotInstall() string {
	osRelease, err := os.ReadFile("/etc/os-release")
	switch {
	case err != nil || !isDebian(string(osRelease)):
		return "this is not Debian"
	case os.Geteuid() != 0:
		return "not root"
	case !present("apt-get"):
		return "there is no apt-get"
	}
	return ""
}

// Install installs Debian packages. It refreshes the package lists only when they do not know a package or are out of date, and waits
// for another apt or dpkg to finish.
func Install(ctx context.Context, progress io.Writer, packages ...string) error {
	fmt.Fprintf(progress, "Installing from Debian: %s\n", strings.Join(packages, " "))
	if !known(ctx, packages) {
		if err := apt(ctx, progress, "update"); err != nil {
			return err
		}
	}
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	err := apt(ctx, progress, args...)
	if err != nil && ctx.Err() == nil { // the lists may name versions that the mirror has replaced
		if err := apt(ctx, progress, "update"); err != nil {
			return err
		}
		err = apt(ctx, progress, args...)
	}
	return err
}

// known tells whether the package lists on this machine have a candidate for each package.
func known(ctx context.Context, packages []string) bool {
	out, err := exec.CommandContext(ctx, "apt-cache", append([]string{"policy"}, packages...)...).Output()
	return err == nil && allCandidates(string(out), len(packages))
}

func allCandidates(policy string, want int) bool {
	have := 0
	for line := range strings.Lines(policy) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && value != "(none)" {
			have++
		}
	}
	return have == want
}

func apt(ctx context.Context, progress io.Writer, args ...string) error {
	deadline := time.Now().Add(lockPatience)
	for told := false; ; told = true {
		output, err := runApt(ctx, args)
		if err == nil {
			return nil
		}
		if !lockHeld(output) || time.Now().After(deadline) {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, strings.TrimSpace(output))
		}
		if !told {
			fmt.Fprintln(progress, "Another package manager is at work; waiting for it.")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("apt-get %s: %w", args[0], ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

func runApt(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func lockHeld(output string) bool {
	return strings.Contains(output, "Could not get lock") || strings.Contains(output, "Unable to lock") ||
		strings.Contains(output, "Unable to acquire the dpkg frontend lock")
}
