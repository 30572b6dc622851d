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

// Install installs Debian packages. It refreshes the package lists only when they do not know a package or are out of date, waits
// for another apt or dpkg to finish, and tries again for a while when the mirror cannot be reached.
func Install(ctx context.Context, progress io.Writer, packages ...string) error {
	fmt.Fprintf(progress, "Installing from Debian: %s\n", strings.Join(packages, " "))
	if !known(ctx, packages) {
		if err := refresh(ctx, progress, packages); err != nil {
			return err
		}
	}
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	err := apt(ctx, progress, nil, args...)
	if err == nil || ctx.Err() != nil || errors.Is(err, errUnreachable) {
		return err
	}
	// The lists may name versions that the mirror has replaced.
	if err := refresh(ctx, progress, packages); err != nil {
		return err
	}
	return apt(ctx, progress, nil, args...)
}

// refresh fetches the package lists. apt-get calls it success, with a warning, when a source cannot be reached, since old
// lists may do: they do where they know the packages.
func refresh(ctx context.Context, progress io.Writer, packages []string) error {
	return apt(ctx, progress, func() bool { return known(ctx, packages) }, "update")
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

// apt runs apt-get until it succeeds or trying again is of no use. The check, if there is one, tells whether a success
// brought what it was for; it matters only where the mirror was not reached.
func apt(ctx context.Context, progress io.Writer, check func() bool, args ...string) error {
	begin := time.Now()
	told := trouble(-1)
	for {
		output, err := runApt(ctx, args)
		what := judge(output)
		if err == nil && (what != unreachable || check == nil || check()) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("apt-get %s: %w", args[0], ctx.Err())
		}
		wait, again := what.retry(time.Since(begin))
		if !again {
			return what.failure(args[0], output, err)
		}
		if what != told || what == unreachable {
			fmt.Fprintln(progress, what.progress(time.Since(begin)))
			told = what
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("apt-get %s: %w", args[0], ctx.Err())
		case <-time.After(wait):
		}
	}
}

func runApt(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{
		"-q", "-o", "DPkg::Lock::Timeout=120",
		// One attempt must not take all of our patience, nor hide that the mirror is silent.
		"-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20", "-o", "Acquire::Retries=0",
	}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
