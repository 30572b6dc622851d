package cleanup

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestJobReachesWhatTheNodeRemoves : each path that is removed lies in a folder of the node that
// the Job's container has, and under it, since a mount point cannot be removed from within.
func TestJobReachesWhatTheNodeRemoves(t *testing.T) {
	for _, state := range []bool{false, true} {
		node := Node{CNIBinDir: "/opt/cni/bin", CNIConfDir: "/etc/cni/net.d", State: state}
		c := Cluster{Image: "i", Namespace: "n", Task: node}
		pod := c.JobFor("tb-node2").Spec.Template.Spec
		inContainer := node
		inContainer.Root = "/host"
		for _, path := range inContainer.Paths() {
			if !slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
				return len(path) > len(m.MountPath) && path[:len(m.MountPath)+1] == m.MountPath+"/"
			}) {
				t.Errorf("state=%t: %s lies in no mount of the Job", state, path)
			}
		}
		if got := slices.Contains(pod.Containers[0].Args, "--state"); got != state {
			t.Errorf("state=%t: args %v", state, pod.Containers[0].Args)
		}
		if pod.NodeName != "tb-node2" || !pod.HostNetwork {
			t.Errorf("the Job does not run in the node's network: %+v", pod)
		}
	}
}

// TestKubeProxyJobNeedsTheKernelOnly : no folder of the node, and the flags pass on.
func TestKubeProxyJobNeedsTheKernelOnly(t *testing.T) {
	c := Cluster{Image: "i", Namespace: "n", Task: KubeProxy{DryRun: true, Force: true}}
	pod := c.JobFor("tb-node2").Spec.Template.Spec
	if want := []string{"cleanup", "kube-proxy", "--patience=0s", "--dry-run", "--force"}; !slices.Equal(pod.Containers[0].Args, want) {
		t.Errorf("args %v, want %v", pod.Containers[0].Args, want)
	}
	if len(pod.Volumes) != 0 || !pod.HostNetwork {
		t.Errorf("volumes %v, host network %t", pod.Volumes, pod.HostNetwork)
	}
}
