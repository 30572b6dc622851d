package build

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weftnet/test/testbed/store"
)

// recipe is part of every key: raise it when the way of building changes in a manner that the flags do not show.
const recipe = "1"

// Inputs are the parts of a key that come from outside the catalog.
type Inputs struct {
	Toolchain string // runtime.Version, GOOS and GOARCH
	Sources   string // the module's go.mod, go.sum and own Go files
}

// key names everything that decides a target's content.
func key(t Target, in Inputs) string {
	m := modules[t.Module]
	return store.Key(recipe, in.Toolchain, in.Sources, t.Name, t.Package, fmt.Sprint(t.Test), m.tags, strings.Join(m.stamps, " "))
}

// job is one run of the go command: the programs of a module together, so that what they share is compiled once.
type job struct {
	module  string
	set     string
	test    bool
	targets []Target
}

func (j job) name() string {
	names := make([]string, 0, len(j.targets))
	for _, t := range j.targets {
		names = append(names, t.Name)
	}
	return strings.Join(names, " ")
}

// queues groups the targets into jobs and the jobs into one queue per module. Queues may run beside each other; the jobs of a queue
// not, since they would compile the same packages twice. The longest queue comes first.
func queues(targets []Target) [][]job {
	var order []string
	byModule := map[string][]job{}
	for _, t := range targets {
		jobs := byModule[t.Module]
		if jobs == nil {
			order = append(order, t.Module)
		}
		i := slices.IndexFunc(jobs, func(j job) bool { return j.set == t.Set && !j.test })
		if i < 0 || t.Test { // a test binary is a job of its own
			jobs = append(jobs, job{module: t.Module, set: t.Set, test: t.Test})
			i = len(jobs) - 1
		}
		jobs[i].targets = append(jobs[i].targets, t)
		byModule[t.Module] = jobs
	}
	out := make([][]job, 0, len(order))
	for _, m := range order {
		out = append(out, byModule[m])
	}
	slices.SortStableFunc(out, func(a, b []job) int { return int(cold(b) - cold(a)) })
	return out
}

func cold(jobs []job) (sum time.Duration) {
	for _, j := range jobs {
		for _, t := range j.targets {
			sum += t.Cold
		}
	}
	return sum
}

// commands returns the arguments of the go commands that build a job into dir. The go command names the programs, see builtName.
func commands(j job, version, dir string) [][]string {
	m := modules[j.module]
	flags := []string{"-mod=readonly", "-buildvcs=false", "-ldflags", linkerFlags(m, version)}
	if m.tags != "" {
		flags = append(flags, "-tags", m.tags)
	}
	if j.test {
		t := j.targets[0]
		return [][]string{
			slices.Concat([]string{"build", "-v"}, flags, []string{t.Package}), // for the progress: `go test -v` means something else
			slices.Concat([]string{"test", "-c"}, flags, []string{"-o", path.Join(dir, t.Name), t.Package}),
		}
	}
	args := slices.Concat([]string{"build", "-v"}, flags, []string{"-o", dir + "/"})
	for _, t := range j.targets {
		args = append(args, t.Package)
	}
	return [][]string{args}
}

// linkerFlags strips symbols and debug data, which halves the files and the time to link them, and stamps the version.
func linkerFlags(m module, version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	fill := strings.NewReplacer("{version}", version, "{major}", major, "{minor}", minor)
	flags := "-s -w"
	for _, stamp := range m.stamps {
		flags += " -X " + fill.Replace(stamp)
	}
	return flags
}

var majorSuffix = regexp.MustCompile(`^v[0-9]+$`)

// builtName is the file name that `go build -o dir/` chooses: the last element of the import path that is not a major version.
func builtName(t Target) string {
	switch {
	case t.Test, t.Package == ".":
		return t.Name
	case majorSuffix.MatchString(path.Base(t.Package)):
		return path.Base(path.Dir(t.Package))
	}
	return path.Base(t.Package)
}

// announcement says before a slow build what it will cost.
func announcement(missing []Target, cores int) string {
	var sum time.Duration
	for _, t := range missing {
		sum += t.Cold
	}
	const measuredOn = 2 // cores
	wall := sum * measuredOn / time.Duration(max(cores, 1))
	minutes := max(1, int((wall + 30*time.Second).Minutes()))
	return fmt.Sprintf("Building %d programs from source, about %d min on this machine's %d cores. They are cached: the next time takes a second.",
		len(missing), minutes, cores)
}
