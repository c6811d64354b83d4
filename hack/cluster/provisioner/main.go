// Command provisioner makes volumes for claims of the local node: a folder for each, below one folder of the machine.
// The volumes are of the kind "local", so the kubelet gives the folder to the pod's group (fsGroup), as it does with a
// disk. Sizes are recorded and can grow, but are not enforced.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	corev1 "k8s.io/api/core/v1"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	folder := flag.String("folder", "", "the folder that holds all volumes")
	node := flag.String("node", "", "the name of the node that the folder is on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *kubeconfig, *folder, *node)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "provisioner:", err)
		os.Exit(1)
	}
}

// run provisions until the context ends.
func run(ctx context.Context, kubeconfig, folder, node string) error {
	if !filepath.IsAbs(folder) || node == "" {
		return fmt.Errorf("--folder must be an absolute path and --node a name")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer events.Shutdown()

	shared := informers.NewSharedInformerFactory(client, 10*time.Minute)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](100*time.Millisecond, 10*time.Second))
	worker := &provisioner{
		client:  client,
		folder:  folder,
		node:    node,
		claims:  shared.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: shared.Core().V1().PersistentVolumes().Lister(),
		classes: shared.Storage().V1().StorageClasses().Lister(),
		events:  events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: provisionerName}),
	}
	for _, watched := range []cache.SharedIndexInformer{
		shared.Core().V1().PersistentVolumeClaims().Informer(),
		shared.Core().V1().PersistentVolumes().Informer(),
	} {
		if _, err := watched.AddEventHandler(handler(queue)); err != nil {
			return err
		}
	}
	shared.Start(ctx.Done())
	shared.WaitForCacheSync(ctx.Done())
	go func() {
		<-ctx.Done()
		queue.ShutDown()
	}()
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for next(ctx, queue, worker) {
		}
	}, time.Second)
	return nil
}

// key names a claim, or a volume when namespace is empty.
type key struct{ namespace, name string }

func handler(queue workqueue.TypedRateLimitingInterface[key]) cache.ResourceEventHandler {
	add := func(object any) {
		switch object := object.(type) {
		case *corev1.PersistentVolumeClaim:
			queue.Add(key{object.Namespace, object.Name})
		case *corev1.PersistentVolume:
			queue.Add(key{name: object.Name})
			// A claim that grows waits for its volume.
			if claim := object.Spec.ClaimRef; claim != nil {
				queue.Add(key{claim.Namespace, claim.Name})
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, object any) { add(object) }}
}

// next does one piece of work; it is tried again, later and later, until it succeeds.
func next(ctx context.Context, queue workqueue.TypedRateLimitingInterface[key], worker *provisioner) bool {
	item, stopped := queue.Get()
	if stopped {
		return false
	}
	defer queue.Done(item)
	var err error
	if item.namespace == "" {
		err = worker.reclaim(ctx, item.name)
	} else {
		err = worker.serve(ctx, item.namespace, item.name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s/%s: %v\n", time.Now().UTC().Format(time.RFC3339), item.namespace, item.name, err)
		queue.AddRateLimited(item)
		return true
	}
	queue.Forget(item)
	return true
}
