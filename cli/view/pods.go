package view

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// agentOf sums up a Pod.
func agentOf(pod *corev1.Pod) Agent {
	a := Agent{Pod: pod.Namespace + "/" + pod.Name}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			a.Ready = c.Status == corev1.ConditionTrue
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			a.Why = fmt.Sprintf("%s: %s", c.Reason, c.Message)
		}
	}
	statuses := append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...)
	for i := range statuses {
		a.Restarts += statuses[i].RestartCount
		if a.Why == "" {
			a.Why = containerWhy(&statuses[i])
		}
	}
	switch {
	case a.Ready:
		a.Why = ""
	case a.Why == "":
		a.Why = "phase " + string(pod.Status.Phase) + ", its readiness probe has not passed"
	}
	return a
}

// containerWhy is the reason that a container gives for not running, if it does not.
func containerWhy(s *corev1.ContainerStatus) string {
	switch {
	case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
		why := s.State.Waiting.Reason
		if s.State.Waiting.Message != "" {
			why += ": " + s.State.Waiting.Message
		}
		if last := s.LastTerminationState.Terminated; last != nil && last.Message != "" {
			why += " (it ended with: " + last.Message + ")"
		}
		return why
	case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
		return fmt.Sprintf("container %s ended with status %d: %s", s.Name, s.State.Terminated.ExitCode, s.State.Terminated.Message)
	default:
		return ""
	}
}
