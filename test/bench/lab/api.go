//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/apiserver"
	"github.com/weftnet/weftnet/test/harness"
)

func (l *Lab) connect(t *testing.T, server *apiserver.Server) {
	t.Helper()
	config := rest.CopyConfig(server.Config)
	config.QPS = -1 // no limit
	var err error
	if l.Client, err = client.NewWithWatch(config, client.Options{Scheme: apiserver.Scheme(t)}); err != nil {
		t.Fatal(err)
	}
	host, _, err := rest.DefaultServerURL(config.Host, "", v1alpha1.GroupVersion, true)
	if err != nil {
		t.Fatal(err)
	}
	if l.api, err = netip.ParseAddrPort((&url.URL{Host: host.Host}).Host); err != nil {
		t.Fatal(err)
	}
}

// Name of a node.
func Name(number int) string { return fmt.Sprintf("bench-%d", number) }

// Allocate makes the node's Node and its MeshNode, as kubelet and the operator would.
func (l *Lab) Allocate(ctx context.Context, number int) error {
	if err := l.CreateNode(ctx, number); err != nil {
		return err
	}
	_, err := l.CreateMeshNode(ctx, number)
	return err
}

// CreateNode makes what kubelet would.
func (l *Lab) CreateNode(ctx context.Context, number int) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name(number)}}
	if err := l.Client.Create(ctx, node); err != nil {
		return fmt.Errorf("create the Node: %w", err)
	}
	for _, a := range Addresses(number) {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	if err := l.Client.Status().Update(ctx, node); err != nil {
		return fmt.Errorf("give the Node its addresses: %w", err)
	}
	return nil
}

// CreateMeshNode makes what the operator would.
func (l *Lab) CreateMeshNode(ctx context.Context, number int) (*v1alpha1.MeshNode, error) {
	m := &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: Name(number)}}
	blocks, mesh := Blocks(number)
	m.Spec = v1alpha1.MeshNodeSpec{PodCIDRs: texts(blocks), MeshIPs: texts(mesh), NodeIPs: texts(Addresses(number))}
	if err := l.Client.Create(ctx, m); err != nil {
		return nil, fmt.Errorf("create the MeshNode: %w", err)
	}
	return m, nil
}

func texts[V fmt.Stringer](values []V) (out []string) {
	for _, v := range values {
		out = append(out, v.String())
	}
	return out
}

// MeshNode reads a node's.
func (l *Lab) MeshNode(ctx context.Context, number int) (*v1alpha1.MeshNode, error) {
	m := &v1alpha1.MeshNode{}
	if err := l.Client.Get(ctx, client.ObjectKey{Name: Name(number)}, m); err != nil {
		return nil, fmt.Errorf("read the MeshNode of %s: %w", Name(number), err)
	}
	return m, nil
}

// Remove deletes the node's objects.
func (l *Lab) Remove(ctx context.Context, number int) error {
	meta := metav1.ObjectMeta{Name: Name(number)}
	for _, o := range []client.Object{&v1alpha1.MeshNode{ObjectMeta: meta}, &corev1.Node{ObjectMeta: meta}} {
		if err := l.Client.Delete(ctx, o); err != nil {
			return fmt.Errorf("delete %s: %w", Name(number), err)
		}
	}
	return nil
}

// WaitMesh waits until a node says that its mesh is in force, and that it has so many peers and so
// many of them connected.
func (l *Lab) WaitMesh(t *testing.T, number, expected, connected int, limit time.Duration) {
	t.Helper()
	err := harness.Eventually(t.Context(), limit, "mesh of "+Name(number), func(ctx context.Context) error {
		m, err := l.MeshNode(ctx, number)
		if err != nil {
			return err
		}
		if p := m.Status.Peers; int(p.Expected) != expected || int(p.Connected) != connected {
			return fmt.Errorf("%d of %d peers connected, want %d of %d", p.Connected, p.Expected, connected, expected)
		}
		for _, c := range m.Status.Conditions {
			if c.Type == v1alpha1.ConditionMeshReady && c.Status == metav1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the mesh is not in force: %+v", m.Status.Conditions)
	})
	if err != nil {
		t.Fatal(err)
	}
}
