//go:build bench

package mesh

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// place is where a program runs: a network namespace, and the control group whose share of the processors it has.
// Both sides run their programs in the same groups. A BestEffort Pod has a fiftieth of the share that the wireguard Pod
// has, and a program outside of every Pod has ten times that share: with each side where it happened to be started, the
// figures were the scheduler's.
type place struct {
	namespace string // its file
	groups    []string
}

// joinAndRun is a shell's script: its arguments are how many groups there are, their files, and the command.
const joinAndRun = `n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1"; shift; n=$((n-1)); done; exec "$@"`

// command is the program's, with its place before it.
func (p place) command(program ...string) []string {
	whole := []string{"nsenter", "--net=" + p.namespace, "sh", "-ec", joinAndRun, "place", itoa(len(p.groups))}
	return append(append(whole, p.groups...), program...)
}

// start runs a program until the test ends.
func (p place) start(t *testing.T, program ...string) {
	t.Helper()
	whole := p.command(program...)
	cmd := exec.Command(whole[0], whole[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// in is the same share of the processors in another network namespace.
func (p place) in(namespace string) place {
	p.namespace = namespace
	return p
}

// placeOf is where a Pod's processes run.
func placeOf(t *testing.T, pod *corev1.Pod) place {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), "/pod"+string(pod.UID)+"/") {
			return place{namespace: filepath.Join(filepath.Dir(file), "ns", "net"), groups: groups(t, string(text))}
		}
	}
	t.Fatalf("no process of the Pod %s runs here", pod.Name)
	return place{}
}

// groups are the files of the groups that share out the processors, of a process's list of groups; cgroup 1 has one
// tree for each controller, cgroup 2 a tree for all.
func groups(t *testing.T, list string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(list) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for _, controller := range strings.Split(fields[1], ",") {
			if controller != "" && controller != "cpu" {
				continue
			}
			file := filepath.Join("/sys/fs/cgroup", controller, fields[2], "cgroup.procs")
			if _, err := os.Stat(file); err == nil {
				found = append(found, file)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no group for the processors in:\n%s", list)
	}
	return found
}
