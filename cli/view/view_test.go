package view

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestParseLinks(t *testing.T) {
	const text = `# HELP weftnet_peer_info A peer of this node.
# TYPE weftnet_peer_info gauge
weftnet_peer_info{endpoint="10.200.0.12:51820",peer="b",public_key="k"} 1
weftnet_peer_info{endpoint="[fd00:c8::13]:51820",peer="c",public_key="k"} 1
weftnet_peer_info{endpoint="",peer="d",public_key="k"} 1
# TYPE weftnet_peer_handshake_age_seconds gauge
weftnet_peer_handshake_age_seconds{peer="b"} 12.5
weftnet_peer_handshake_age_seconds{peer="c"} -1
# TYPE weftnet_peer_receive_bytes_total counter
weftnet_peer_receive_bytes_total{peer="b"} 1.5e+09
# TYPE weftnet_peer_transmit_bytes_total counter
weftnet_peer_transmit_bytes_total{peer="b"} 148
weftnet_peer_transmit_bytes_total{peer="gone"} 148
# TYPE weftnet_peer_unanswered_seconds gauge
weftnet_peer_unanswered_seconds{peer="b"} 0
weftnet_peer_unanswered_seconds{peer="c"} 21.5
# TYPE weftnet_peer_heard_age_seconds gauge
weftnet_peer_heard_age_seconds{peer="b"} 0.5
# TYPE go_goroutines gauge
go_goroutines 12
`
	got, err := parseLinks([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Link{
		"b": {Endpoint: "10.200.0.12:51820", Handshake: 12500 * time.Millisecond, Received: 1_500_000_000, Sent: 148, Heard: 500 * time.Millisecond},
		"c": {Endpoint: "[fd00:c8::13]:51820", Handshake: -1, Unanswered: 21500 * time.Millisecond, Heard: -1},
		"d": {Handshake: -1, Heard: -1},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := parseLinks([]byte("<html>not metrics")); err == nil {
		t.Error("text that is no metrics was accepted")
	}
}

func FuzzParseLinks(f *testing.F) {
	f.Add([]byte("weftnet_peer_info{peer=\"b\"} 1\n"))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parseLinks(text) })
}

func TestAgentOf(t *testing.T) {
	waiting := func(reason, message string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "agent", RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
	}
	crashed := waiting("CrashLoopBackOff", "back-off 40s")
	crashed.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Message: "read the key: permission denied"}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}
	for name, test := range map[string]struct {
		status corev1.PodStatus
		want   Agent
	}{
		"ready":      {corev1.PodStatus{Conditions: []corev1.PodCondition{ready}, ContainerStatuses: []corev1.ContainerStatus{{RestartCount: 1}}}, Agent{Ready: true, Restarts: 1}},
		"no image":   {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{waiting("ImagePullBackOff", "not found")}}, Agent{Why: "ImagePullBackOff: not found", Restarts: 2}},
		"crashing":   {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{crashed}}, Agent{Why: "CrashLoopBackOff: back-off 40s (it ended with: read the key: permission denied)", Restarts: 2}},
		"not placed": {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no port"}}}, Agent{Why: "Unschedulable: no port"}},
		"init first": {corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{waiting("ErrImagePull", "x")}, ContainerStatuses: []corev1.ContainerStatus{waiting("PodInitializing", "")}}, Agent{Why: "ErrImagePull: x", Restarts: 4}},
		"not yet":    {corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{}}}, Agent{Why: "phase Running, its readiness probe has not passed"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Status: test.status}
			pod.Namespace, pod.Name = "w", "agent"
			test.want.Pod = "w/agent"
			if got := agentOf(pod); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestAlive(t *testing.T) {
	for age, want := range map[time.Duration]bool{-1: false, 0: true, 179 * time.Second: true, 180 * time.Second: false} {
		if got := (Link{Handshake: age}).Alive(); got != want {
			t.Errorf("a handshake %s ago: alive %t", age, got)
		}
	}
}
