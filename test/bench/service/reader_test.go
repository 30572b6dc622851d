//go:build linux && bench

package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weftnet/weftnet/test/bench/lab"
)

// readerEnv makes the test's program a reader, with the kubeconfig that it names.
const readerEnv = "SERVICE_BENCH_READER"

func TestMain(m *testing.M) {
	if kubeconfig := os.Getenv(readerEnv); kubeconfig != "" {
		if err := readOnly(context.Background(), kubeconfig); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// readOnly watches the EndpointSlices, decodes each change and throws it away: what anybody pays who reads each of them.
func readOnly(ctx context.Context, kubeconfig string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		return err
	}
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	cfg.GroupVersion, cfg.APIPath = &discoveryv1.SchemeGroupVersion, "/apis"
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := restclient.RESTClientFor(cfg)
	if err != nil {
		return err
	}
	lw := cache.NewFilteredListWatchFromClient(client, "endpointslices", "", func(*metav1.ListOptions) {})
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), &discoveryv1.EndpointSlice{}, nowhere{}, cache.ReflectorOptions{}).RunWithContext(ctx)
	return nil
}

// nowhere forgets what it is given.
type nowhere struct{}

func (nowhere) Add(any) error               { return nil }
func (nowhere) Update(any) error            { return nil }
func (nowhere) Delete(any) error            { return nil }
func (nowhere) Replace([]any, string) error { return nil }
func (nowhere) Resync() error               { return nil }

// reading measures the reader's CPU time for one of 100 changes a second.
func (w *world) reading(t *testing.T, phase time.Duration) time.Duration {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	reader := exec.Command(program)
	reader.Env = append(os.Environ(), readerEnv+"="+w.lab.Kubeconfig())
	reader.Stderr = os.Stderr
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = reader.Process.Kill()
		_ = reader.Wait() // it was killed, which is an error to Wait
	}()
	idle, err := idle(reader.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), phase)
	defer stop()
	begin := time.Now()
	before, err1 := lab.UsageOf(reader.Process.Pid)
	made, err2 := w.churn(ctx, churnEvery)
	after, err3 := lab.UsageOf(reader.Process.Pid)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return (spent(before, after) - time.Duration(idle*float64(time.Since(begin)))) / time.Duration(max(made, 1))
}
