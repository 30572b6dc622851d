package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestJudge(t *testing.T) {
	for output, want := range map[string]trouble{
		"E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)":                         locked,
		"E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?":  locked,
		"W: Failed to fetch http://m/debian/dists/x/InRelease  Temporary failure resolving 'm'":                    unreachable,
		"E: Failed to fetch http://m/a.deb  Could not connect to m:80 (192.0.2.1), connection timed out":           unreachable,
		"E: Failed to fetch http://m/a.deb  Cannot initiate the connection to m:80 (2001:db8::1). - connect (101)": unreachable,
		"E: Failed to fetch http://m/a.deb  503  Service Unavailable [IP: 192.0.2.1 80]":                           unreachable,
		"E: Failed to fetch http://m/a.deb  404  Not Found [IP: 192.0.2.1 80]":                                     permanent,
		"E: Unable to locate package runk": permanent,
		"Could not connect to m:80\nE: You don't have enough free space: No space left on device": permanent,
		"E: something that nobody has seen": permanent,
		"":                                  permanent,
	} {
		if got := judge(output); got != want {
			t.Errorf("%q: judged %d, want %d", output, got, want)
		}
	}
}

func TestRetry(t *testing.T) {
	for _, test := range []struct {
		what  trouble
		since time.Duration
		again bool
	}{
		{permanent, 0, false},
		{unreachable, 0, true},
		{unreachable, mirrorPatience - mirrorRetry, true},
		{unreachable, mirrorPatience - mirrorRetry + time.Millisecond, false},
		{locked, mirrorPatience, true},
		{locked, lockPatience, false},
	} {
		wait, again := test.what.retry(test.since)
		if again != test.again || again && wait <= 0 {
			t.Errorf("trouble %d after %s: again %v in %s, want %v", test.what, test.since, again, wait, test.again)
		}
	}
}

func TestFailureSaysWhatToDo(t *testing.T) {
	cause := errors.New("exit status 100")
	for output, want := range map[string]string{
		"E: dpkg was interrupted, you must manually run": "dpkg --configure -a",
		"E: Unable to locate package x":                  "/etc/apt",
		"E: odd":                                         "deps --check",
	} {
		err := judge(output).failure("install", output, cause)
		if !errors.Is(err, cause) || errors.Is(err, errUnreachable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), output) {
			t.Errorf("%q gives %v, want %q in it", output, err, want)
		}
	}
	err := unreachable.failure("update", "W: Temporary failure resolving 'm'", nil)
	if !errors.Is(err, errUnreachable) || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("an unreachable mirror gives %v", err)
	}
}

// mirror puts programs apt-get and apt-cache first in PATH. The bubble's clock stands while they run.
func mirror(t *testing.T, aptGet, candidate string) (calls func() []string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for name, script := range map[string]string{
		"apt-get":   "#!/bin/sh\nfor last; do :; done\ncase \"$*\" in *\\ update) verb=update;; *) verb=install;; esac\necho $verb >> " + log + "\nn=$(grep -c . " + log + ")\n" + aptGet,
		"apt-cache": "#!/bin/sh\necho '  Candidate: " + candidate + "'\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil { //nolint:gosec // a program must be executable
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() []string {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))
	}
}

func TestInstallTriesAnUnreachableMirrorAgain(t *testing.T) {
	calls := mirror(t, "[ $n -ge 4 ] || { echo 'E: Could not connect to m:80'; exit 100; }\n", "1.0")
	synctest.Test(t, func(t *testing.T) {
		var progress strings.Builder
		begin := time.Now()
		if err := Install(context.Background(), &progress, "runc"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 3*mirrorRetry {
			t.Errorf("took %s, want three waits of %s", took, mirrorRetry)
		}
		if got := strings.Count(progress.String(), "cannot be reached"); got != 3 {
			t.Errorf("told %d times, want 3:\n%s", got, progress.String())
		}
	})
	if got := strings.Join(calls(), " "); got != "install install install install" {
		t.Errorf("apt-get was called for: %s", got)
	}
}

func TestInstallGivesUpAfterItsPatience(t *testing.T) {
	mirror(t, "echo 'W: Temporary failure resolving m'\n[ $verb = update ] || exit 100\n", "(none)")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		err := Install(context.Background(), &strings.Builder{}, "runc")
		if !errors.Is(err, errUnreachable) {
			t.Errorf("got %v, want an unreachable mirror", err)
		}
		if took := time.Since(begin); took != mirrorPatience {
			t.Errorf("gave up after %s, want %s", took, mirrorPatience)
		}
	})
}

func TestInstallTellsAPermanentErrorAtOnce(t *testing.T) {
	calls := mirror(t, "[ $verb = update ] || { echo 'E: Unable to locate package runc'; exit 100; }\n", "1.0")
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		err := Install(context.Background(), &strings.Builder{}, "runc")
		if err == nil || errors.Is(err, errUnreachable) || !strings.Contains(err.Error(), "Unable to locate package") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("waited %s", took)
		}
	})
	if got := strings.Join(calls(), " "); got != "install update install" {
		t.Errorf("apt-get was called for: %s", got)
	}
}
