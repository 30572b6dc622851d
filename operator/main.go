// Command weftnet-operator makes the decisions that concern the whole cluster: which node has
// which block of addresses. It runs as a Deployment; one replica leads, and were two to lead at
// once, package plan explains why they still give no block twice.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weftnet/weftnet/operator/controllers"
	"github.com/weftnet/weftnet/version"
)

// config is what the flags say.
type config struct {
	metricsAddress, healthAddress string
	leaderElect                   bool
	leaderNamespace               string
	cooldown                      time.Duration
	logLevel                      slog.Level
	version, policy               bool
}

func main() {
	c, err := parse(os.Args[1:])
	if err == nil && c.version {
		fmt.Println(version.Version)
		return
	}
	if err == nil {
		err = run(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weftnet-operator:", err)
		os.Exit(1)
	}
}

func parse(args []string) (config, error) {
	var c config
	fs := flag.NewFlagSet(controllers.Name, flag.ContinueOnError)
	fs.StringVar(&c.metricsAddress, "metrics-address", ":9188", "address of /metrics; 0 turns it off")
	fs.StringVar(&c.healthAddress, "health-address", ":9189", "address of /healthz and /readyz; 0 turns it off")
	fs.BoolVar(&c.leaderElect, "leader-elect", false, "work only while holding the lease "+controllers.Name)
	fs.StringVar(&c.leaderNamespace, "leader-election-namespace", "", "namespace of the lease; empty: the Pod's own")
	fs.DurationVar(&c.cooldown, "cooldown", 5*time.Minute, "how long a block is kept back after its node went")
	fs.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	fs.BoolVar(&c.policy, "policy", true, "say of each network policy whether it can be honoured")
	fs.BoolVar(&c.version, "version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if c.cooldown < controllers.LeastCooldown {
		return c, fmt.Errorf("-cooldown %s is too short: at least %s, or a write that is under way may come too late", c.cooldown, controllers.LeastCooldown)
	}
	return c, nil
}

func run(c config) error {
	logs := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel})
	ctrl.SetLogger(logr.FromSlogHandler(logs))
	ctx := ctrl.SetupSignalHandler()
	kubeconfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	kubeconfig.QPS, kubeconfig.Burst = 200, 400 // the API server's own priority and fairness decides beyond that
	kubeconfig.UserAgent = controllers.Name + "/" + version.Version
	if err := awaitAPIServer(ctx, kubeconfig, c.healthAddress, slog.New(logs)); err != nil || ctx.Err() != nil {
		return err
	}
	scheme, err := controllers.Scheme()
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(kubeconfig, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: c.metricsAddress},
		HealthProbeBindAddress:        c.healthAddress,
		LeaderElection:                c.leaderElect,
		LeaderElectionID:              controllers.Name,
		LeaderElectionNamespace:       c.leaderNamespace,
		LeaderElectionReleaseOnCancel: true, // the process ends right after, so that the other need not wait
	})
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	if err := controllers.Add(mgr, controllers.Options{Cooldown: c.cooldown, Policies: c.policy}); err != nil {
		return err
	}
	if err := addChecks(mgr); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// addChecks: alive is a process that answers; ready is one whose caches are in sync, so that it
// could lead at once.
func addChecks(mgr manager.Manager) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("add the health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("caches", controllers.CachesSynced(mgr)); err != nil {
		return fmt.Errorf("add the readiness check: %w", err)
	}
	return nil
}
