package view

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func agentPod(node string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "w", Name: "agent-" + node, Labels: map[string]string{componentLabel: "agent"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{
			{Name: "agent", Ports: []corev1.ContainerPort{{Name: metricsPort, ContainerPort: 9473}}}}},
	}
}

// answer is what an API server says when it is asked to ask an agent.
type answer func(w http.ResponseWriter, r *http.Request)

func says(code int, contentType, text string) answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	}
}

// hangs never answers, as an agent that is stopped.
func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// askAll asks the agents of the nodes over HTTP.
func askAll(t *testing.T, patience time.Duration, answers map[string]answer) *Mesh {
	t.Helper()
	mux := http.NewServeMux()
	var pods []corev1.Pod
	for node, do := range answers {
		mux.HandleFunc("/api/v1/namespaces/w/pods/http:agent-"+node+":9473/proxy/metrics", do)
		pods = append(pods, agentPod(node))
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	typed, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	m := &Mesh{Agents: map[string]Agent{}, Links: map[string]map[string]Link{}, Unasked: map[string]Unasked{}}
	Source{Typed: typed, Patience: patience}.readLinks(t.Context(), m, pods)
	return m
}

func status(code int, reason metav1.StatusReason, message string) answer {
	return says(code, "application/json", fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":%q,"reason":%q,"code":%d}`, message, reason, code))
}

// TestAgentsThatDoNotAnswer : each is named with its cause, and none of them keeps the others from being heard.
func TestAgentsThatDoNotAnswer(t *testing.T) {
	m := askAll(t, 300*time.Millisecond, map[string]answer{
		"well":    says(200, "text/plain", "weftnet_peer_info{endpoint=\"e\",peer=\"b\"} 1\n"),
		"hangs":   hangs,
		"refuses": status(503, metav1.StatusReasonServiceUnavailable, "error trying to reach service: dial tcp 10.200.0.12:9473: connect: connection refused"),
		"proxy":   says(502, "text/plain", "dial tcp 10.200.0.12:9473: no route to host\n"),
		"denied":  status(403, metav1.StatusReasonForbidden, "pods \"agent-denied\" is forbidden"),
		"garbage": says(200, "text/html", "<html>not metrics"),
	})
	if len(m.Links) != 1 || !reflect.DeepEqual(m.Links["well"], map[string]Link{"b": {Endpoint: "e", Handshake: -1, Heard: -1}}) {
		t.Errorf("the links are %+v", m.Links)
	}
	for node, want := range map[string]Unasked{
		"hangs":   {Why: "no answer within 300ms"},
		"refuses": {Why: "connection refused"},
		"proxy":   {Why: "no route to host"},
		"denied":  {Why: "pods/proxy", Forbidden: true},
		"garbage": {Why: "parse the agent's metrics"},
	} {
		got, told := m.Unasked[node]
		if !told || got.Forbidden != want.Forbidden || !strings.Contains(got.Why, want.Why) {
			t.Errorf("of %s it is told %+v (%t), want %+v", node, got, told, want)
		}
	}
	if len(m.Unasked) != 5 {
		t.Errorf("unasked: %+v", m.Unasked)
	}
}

// TestManyHangingAgentsCostOnePatience : they are waited for together. Asked in turn, they would take a hundred
// times as long, which the bound, as wide as a busy machine needs, tells from once.
func TestManyHangingAgentsCostOnePatience(t *testing.T) {
	const agents, patience = 100, 500 * time.Millisecond
	answers := map[string]answer{}
	for i := range agents {
		answers[fmt.Sprintf("n%d", i)] = hangs
	}
	begin := time.Now()
	m := askAll(t, patience, answers)
	if took := time.Since(begin); took > agents*patience/5 {
		t.Errorf("%d agents that hang took %s, each is given %s", agents, took, patience)
	}
	if len(m.Unasked) != agents {
		t.Errorf("%d of %d are told", len(m.Unasked), agents)
	}
}

// TestUpgradeInProgress : a Pod that is leaving does not speak for the node beside its successor.
func TestUpgradeInProgress(t *testing.T) {
	old, young := agentPod("a"), agentPod("a")
	gone := metav1.Now()
	old.Name, old.DeletionTimestamp = "agent-old", &gone
	young.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for _, pods := range [][]corev1.Pod{{old, young}, {young, old}} {
		m := &Mesh{Agents: map[string]Agent{}}
		asked := m.takePods(pods)
		if len(asked) != 1 || asked[0].Name != "agent-a" || m.Agents["a"].Pod != "w/agent-a" || !m.Agents["a"].Ready {
			t.Errorf("asked %d, the node has %+v", len(asked), m.Agents["a"])
		}
	}
	m := &Mesh{Agents: map[string]Agent{}}
	if asked := m.takePods([]corev1.Pod{old}); len(asked) != 0 || m.Agents["a"].Pod != "w/agent-old" {
		t.Errorf("alone: asked %d, the node has %+v", len(asked), m.Agents["a"])
	}
}
