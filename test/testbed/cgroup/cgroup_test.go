package cgroup

import (
	"slices"
	"strings"
	"testing"
)

func TestParseMounts(t *testing.T) {
	text := `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
broken line
`
	got, err := parseMounts(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{Path: "/sys/fs/cgroup/cpuset", CPUSet: true},
		{Path: "/sys/fs/cgroup/cpu,cpuacct", CPU: true},
		{Path: "/sys/fs/cgroup/unified", Unified: true},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
}
