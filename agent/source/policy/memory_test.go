package policy

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkMemory tells what a Pod of the cluster costs an agent that only has to know it: 100 Pods to
// a Deployment, each with the labels, ports and containers that are usual.
func BenchmarkMemory(b *testing.B) {
	const pods = 10000
	for b.Loop() {
		s, err := New(newSourceConfig())
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		for i := range pods {
			p := pod(fmt.Sprintf("deployment-%d-6d4cf56db6-%05d", i/100, i), "node2", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprintf("fd00::%x", i))
			p.UID = types.UID(fmt.Sprintf("0f8fad5b-d9cb-469f-a165-%012d", i))
			p.Labels = map[string]string{"app.kubernetes.io/name": fmt.Sprint("deployment-", i/100), "pod-template-hash": "6d4cf56db6", "tier": "backend"}
			p.Spec.Containers = []corev1.Container{{Name: "c", Image: strings.Repeat("x", 100), Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
			if err := s.pods.Add(p); err != nil {
				b.Fatal(err)
			}
		}
		s.Take()
		b.ReportMetric(float64(heap()-before)/pods, "B/pod")
		runtime.KeepAlive(s)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
