// SPDX-License-Identifier: GPL-2.0
/*
 * A client of dmaengine that tests cases that dmatest does not: many descriptors at a time,
 * results, polling beside interrupts, and terminating descriptors in flight.
 *
 * "MODE CHANNEL COUNT LENGTH" written to the parameter run makes COUNT copies of LENGTH bytes
 * on the channel, in the way of the mode. The results are then read from the same parameter,
 * as words: the mode's own ones, and the number of copies that were good, failed, were
 * reported as good and were not (lies; by the state of the cookie: status_lies), had no
 * callback (lost) or several (twice), or completed before an earlier one (disorder), and the
 * list of those that failed. The scripts beside this file compare them with the expected
 * values.
 *
 * The callback compares a copy's content, so that a callback that comes too early is noticed.
 * Everything runs under the mutex of the parameters. The client owns its copies until there
 * is proof that the engine does not, or for ever.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/dmaengine.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/random.h>
#include <linux/seq_buf.h>
#include <linux/slab.h>

#define MOST_COPIES	256
#define MOST_LENGTH	SZ_256K
/* The bound of waits in ms; a copy that has not ended by then does not end by itself. */
#define WAIT_MS		6000
#define FILL		0xee

struct copy {
	struct client *client;
	void *src, *dst;
	dma_addr_t src_dma, dst_dma;
	struct dma_async_tx_descriptor *tx;
	dma_cookie_t cookie;
	struct completion done;
	atomic_t calls;
	/* Set by the last callback. */
	int result;
	u32 residue;
	bool same;
	unsigned int order;
};

struct client {
	struct dma_chan *chan;
	struct device *dev;
	unsigned int count;
	size_t length;
	atomic_t order;
	bool terminated;
	atomic_t late_calls;
	struct copy copies[];
};

struct mode {
	const char *name;
	int (*run)(struct client *client);
};

static char text[SZ_2K];
static struct seq_buf report;
/* held lives from mode hold to drop, dropped from drop to late. */
static struct client *held;
static struct client *dropped;

static void copied(void *data, const struct dmaengine_result *result)
{
	struct copy *copy = data;
	struct client *client = copy->client;

	if (READ_ONCE(client->terminated))
		atomic_inc(&client->late_calls);
	copy->result = result->result;
	copy->residue = result->residue;
	dma_sync_single_for_cpu(client->dev, copy->dst_dma, client->length,
				DMA_BIDIRECTIONAL);
	copy->same = !memcmp(copy->src, copy->dst, client->length);
	copy->order = atomic_inc_return(&client->order);
	atomic_inc(&copy->calls);
	complete(&copy->done);
}

static int prepare(struct copy *copy, size_t length, unsigned long flags)
{
	struct client *client = copy->client;

	copy->tx = dmaengine_prep_dma_memcpy(client->chan, copy->dst_dma, copy->src_dma,
					     length, flags | DMA_CTRL_ACK);
	if (!copy->tx)
		return -EBUSY;
	copy->tx->callback_result = copied;
	copy->tx->callback_param = copy;
	return 0;
}

static void submit(struct copy *copy)
{
	copy->cookie = dmaengine_submit(copy->tx);
}

static void fill(struct client *client, struct copy *copy)
{
	get_random_bytes(copy->src, client->length);
	memset(copy->dst, FILL, client->length);
	dma_sync_single_for_device(client->dev, copy->src_dma, client->length, DMA_TO_DEVICE);
	dma_sync_single_for_device(client->dev, copy->dst_dma, client->length,
				   DMA_BIDIRECTIONAL);
	reinit_completion(&copy->done);
	atomic_set(&copy->calls, 0);
	copy->result = -1;
	copy->residue = 0;
	copy->same = false;
	copy->order = 0;
}

static int submit_all(struct client *client, unsigned long flags)
{
	unsigned int i;
	int ret;

	for (i = 0; i < client->count; i++) {
		ret = prepare(&client->copies[i], client->length, flags);
		if (ret)
			return ret;
		submit(&client->copies[i]);
	}
	return 0;
}

static void wait_all(struct client *client)
{
	unsigned long end = jiffies + msecs_to_jiffies(WAIT_MS);
	unsigned int i;

	for (i = 0; i < client->count; i++)
		wait_for_completion_timeout(&client->copies[i].done,
					    max_t(long, end - jiffies, 1));
}

static enum dma_status status_of(struct client *client, struct copy *copy)
{
	return dmaengine_tx_status(client->chan, copy->cookie, NULL);
}

static enum dma_status poll(struct client *client, struct copy *copy)
{
	unsigned long end = jiffies + msecs_to_jiffies(WAIT_MS);
	enum dma_status status;

	do {
		status = status_of(client, copy);
		cond_resched();
	} while (status == DMA_IN_PROGRESS && time_before(jiffies, end));
	return status;
}

/* Submits all copies at once. */
static int run_copy(struct client *client)
{
	int ret = submit_all(client, DMA_PREP_INTERRUPT);

	dma_async_issue_pending(client->chan);
	wait_all(client);
	return ret;
}

/* Issues the copies one by one. */
static int run_each(struct client *client)
{
	unsigned int i;
	int ret;

	for (i = 0; i < client->count; i++) {
		ret = prepare(&client->copies[i], client->length, DMA_PREP_INTERRUPT);
		if (ret)
			return ret;
		submit(&client->copies[i]);
		dma_async_issue_pending(client->chan);
	}
	wait_all(client);
	return 0;
}

/* Issues the copies one by one; only the last one requests an interrupt. */
static int run_last(struct client *client)
{
	unsigned int i;
	int ret;

	for (i = 0; i < client->count; i++) {
		ret = prepare(&client->copies[i], client->length,
			      i == client->count - 1 ? DMA_PREP_INTERRUPT : 0);
		if (ret)
			return ret;
		submit(&client->copies[i]);
		dma_async_issue_pending(client->chan);
	}
	wait_all(client);
	return 0;
}

/* Prepares the second copy, which requests no interrupt, before the first one starts. */
static int run_flip(struct client *client)
{
	struct copy *first = &client->copies[0], *second = &client->copies[1];
	int ret;

	if (client->count != 2)
		return -EINVAL;
	ret = prepare(first, client->length, DMA_PREP_INTERRUPT) ?:
	      prepare(second, client->length, 0);
	if (ret)
		return ret;
	submit(first);
	dma_async_issue_pending(client->chan);
	wait_for_completion_timeout(&first->done, msecs_to_jiffies(WAIT_MS));
	seq_buf_printf(&report, " first=%d", atomic_read(&first->calls));
	submit(second);
	dma_async_issue_pending(client->chan);
	poll(client, second);
	wait_for_completion_timeout(&second->done, msecs_to_jiffies(WAIT_MS));
	return 0;
}

/* Prepares the first copy first and submits it last. */
static int run_skip(struct client *client)
{
	struct copy *first = &client->copies[0];
	unsigned int i;
	int ret;

	ret = prepare(first, client->length, DMA_PREP_INTERRUPT);
	for (i = 1; !ret && i < client->count; i++) {
		ret = prepare(&client->copies[i], client->length, DMA_PREP_INTERRUPT);
		if (!ret)
			submit(&client->copies[i]);
	}
	if (ret)
		return ret;
	dma_async_issue_pending(client->chan);
	for (i = 1; i < client->count; i++)
		wait_for_completion_timeout(&client->copies[i].done,
					    msecs_to_jiffies(WAIT_MS / client->count));
	seq_buf_printf(&report, " before=%d", atomic_read(&first->calls));
	submit(first);
	dma_async_issue_pending(client->chan);
	wait_for_completion_timeout(&first->done, msecs_to_jiffies(WAIT_MS));
	return 0;
}

/* Copies without interrupts. */
static int run_poll(struct client *client)
{
	int ret = submit_all(client, 0);
	unsigned int i;

	dma_async_issue_pending(client->chan);
	for (i = 0; i < client->count; i++)
		poll(client, &client->copies[i]);
	wait_all(client);
	return ret;
}

static int hammer(void *data)
{
	struct client *client = data;

	while (!kthread_should_stop()) {
		dmaengine_tx_status(client->chan, 1, NULL);
		cond_resched();
	}
	return 0;
}

/* Copies with interrupts, while another thread polls. */
static int run_hammer(struct client *client)
{
	struct task_struct *task = kthread_run(hammer, client, "dmaclient");
	int ret;

	if (IS_ERR(task))
		return PTR_ERR(task);
	ret = run_copy(client);
	kthread_stop(task);
	return ret;
}

static int terminate(struct client *client)
{
	int ret = dmaengine_terminate_sync(client->chan);

	WRITE_ONCE(client->terminated, true);
	return ret;
}

/*
 * Terminates copies in flight: later content of the memory stays, and no callback is called
 * any more.
 */
static int run_terminate(struct client *client)
{
	unsigned int i, written = 0;
	int ret, again;

	ret = submit_all(client, DMA_PREP_INTERRUPT);
	dma_async_issue_pending(client->chan);
	/* One of them is in the engine. */
	msleep(50);
	seq_buf_printf(&report, " terminate=%d", terminate(client));
	again = dmaengine_terminate_async(client->chan);
	seq_buf_printf(&report, " again=%d", again);
	for (i = 0; i < client->count; i++)
		memset(client->copies[i].dst, FILL, client->length);
	msleep(1000);
	for (i = 0; i < client->count; i++)
		written += !!memchr_inv(client->copies[i].dst, FILL, client->length);
	seq_buf_printf(&report, " late_writes=%u late_calls=%d", written,
		       atomic_read(&client->late_calls));
	WRITE_ONCE(client->terminated, false);
	return ret;
}

/*
 * An engine that does not end a descriptor. The word "again" is 0 if the driver has ended it
 * by then.
 */
static int run_stuck(struct client *client)
{
	int ret = submit_all(client, DMA_PREP_INTERRUPT);

	dma_async_issue_pending(client->chan);
	msleep(50);
	seq_buf_printf(&report, " terminate=%d", terminate(client));
	seq_buf_printf(&report, " again=%d", dmaengine_terminate_async(client->chan));
	seq_buf_printf(&report, " prepare=%d",
		       prepare(&client->copies[0], client->length, DMA_PREP_INTERRUPT));
	dmaengine_terminate_async(client->chan);
	WRITE_ONCE(client->terminated, false);
	return ret;
}

/* Expects no copy between pause and resume. */
static int run_pause(struct client *client)
{
	int ret;

	seq_buf_printf(&report, " pause=%d", dmaengine_pause(client->chan));
	ret = submit_all(client, DMA_PREP_INTERRUPT);
	dma_async_issue_pending(client->chan);
	msleep(200);
	seq_buf_printf(&report, " paused=%d moved=%d",
		       status_of(client, &client->copies[0]) == DMA_PAUSED,
		       !!memchr_inv(client->copies[0].dst, FILL, client->length));
	seq_buf_printf(&report, " resume=%d", dmaengine_resume(client->chan));
	wait_all(client);
	return ret;
}

/* Pauses while a copy is in the engine, and resumes before it ends. */
static int run_resume(struct client *client)
{
	int ret = submit_all(client, DMA_PREP_INTERRUPT);

	dma_async_issue_pending(client->chan);
	msleep(20);
	dmaengine_pause(client->chan);
	dmaengine_resume(client->chan);
	wait_all(client);
	return ret;
}

/* Submits a descriptor that no sound engine carries out. */
static int run_zero(struct client *client)
{
	int ret = prepare(&client->copies[0], 0, DMA_PREP_INTERRUPT);

	if (ret)
		return ret;
	submit(&client->copies[0]);
	dma_async_issue_pending(client->chan);
	wait_for_completion_timeout(&client->copies[0].done, msecs_to_jiffies(WAIT_MS));
	return 0;
}

static int run_limits(struct client *client)
{
	struct dma_async_tx_descriptor *tx;

	tx = dmaengine_prep_dma_memcpy(client->chan, 0, SZ_1M, SZ_4G + SZ_4K, 0);
	seq_buf_printf(&report, " huge=%d", !!tx);
	seq_buf_printf(&report, " interrupt=%d private=%d align=%u",
		       dma_has_cap(DMA_INTERRUPT, client->chan->device->cap_mask),
		       dma_has_cap(DMA_PRIVATE, client->chan->device->cap_mask),
		       1U << client->chan->device->copy_align);
	return dmaengine_terminate_sync(client->chan);
}

/* Holds the channel while its driver is unbound. */
static int run_hold(struct client *client)
{
	int ret = submit_all(client, DMA_PREP_INTERRUPT);

	dma_async_issue_pending(client->chan);
	held = client;
	return ret;
}

static const struct mode modes[] = {
	{ "copy", run_copy },
	{ "each", run_each },
	{ "last", run_last },
	{ "flip", run_flip },
	{ "skip", run_skip },
	{ "poll", run_poll },
	{ "hammer", run_hammer },
	{ "terminate", run_terminate },
	{ "stuck", run_stuck },
	{ "pause", run_pause },
	{ "resume", run_resume },
	{ "zero", run_zero },
	{ "limits", run_limits },
	{ "hold", run_hold },
};

static bool named(struct dma_chan *chan, void *name)
{
	return !strcmp(dma_chan_name(chan), name);
}

static void free_copies(struct client *client)
{
	unsigned int i;

	for (i = 0; i < client->count; i++) {
		kfree(client->copies[i].src);
		kfree(client->copies[i].dst);
	}
	kfree(client);
}

static struct client *open_client(char *channel, unsigned int count, size_t length)
{
	struct client *client;
	struct copy *copy;
	dma_cap_mask_t mask;
	unsigned int i;

	client = kzalloc(struct_size(client, copies, count), GFP_KERNEL);
	if (!client)
		return ERR_PTR(-ENOMEM);
	client->count = count;
	client->length = length;
	for (i = 0; i < count; i++) {
		copy = &client->copies[i];
		copy->client = client;
		init_completion(&copy->done);
		copy->src = kmalloc(length, GFP_KERNEL);
		copy->dst = kmalloc(length, GFP_KERNEL);
		if (!copy->src || !copy->dst) {
			free_copies(client);
			return ERR_PTR(-ENOMEM);
		}
	}
	dma_cap_zero(mask);
	dma_cap_set(DMA_MEMCPY, mask);
	client->chan = dma_request_channel(mask, named, channel);
	if (!client->chan) {
		free_copies(client);
		return ERR_PTR(-ENODEV);
	}
	client->dev = get_device(dmaengine_get_dma_device(client->chan));
	for (i = 0; i < count; i++) {
		copy = &client->copies[i];
		copy->src_dma = dma_map_single(client->dev, copy->src, length, DMA_TO_DEVICE);
		copy->dst_dma = dma_map_single(client->dev, copy->dst, length,
					       DMA_BIDIRECTIONAL);
		if (dma_mapping_error(client->dev, copy->src_dma) ||
		    dma_mapping_error(client->dev, copy->dst_dma))
			dev_err(client->dev, "dmaclient: not mapped\n");
		fill(client, copy);
	}
	return client;
}

/* Closes the channel. Returns true if the engine has proven to have finished with the copies. */
static bool close_channel(struct client *client)
{
	bool quiet = !dmaengine_terminate_sync(client->chan) &&
		     !dmaengine_terminate_async(client->chan);
	unsigned int i;

	dma_release_channel(client->chan);
	for (i = 0; i < client->count; i++) {
		struct copy *copy = &client->copies[i];

		dma_unmap_single(client->dev, copy->src_dma, client->length, DMA_TO_DEVICE);
		dma_unmap_single(client->dev, copy->dst_dma, client->length,
				 DMA_BIDIRECTIONAL);
	}
	put_device(client->dev);
	return quiet;
}

static void close_client(struct client *client)
{
	if (close_channel(client))
		free_copies(client);
}

/* Reports whether the memory was written to after it had been taken back. */
static void report_late(struct client *client)
{
	unsigned int i, written = 0;

	for (i = 0; i < client->count; i++)
		written += !!memchr_inv(client->copies[i].dst, FILL, client->length);
	seq_buf_printf(&report, "late late_writes=%u", written);
}

static void report_copies(struct client *client)
{
	unsigned int good = 0, failed = 0, lies = 0, lost = 0, twice = 0, disorder = 0;
	struct copy *copy, *last = NULL;
	unsigned int status_lies = 0, i;

	seq_buf_puts(&report, " failed_at=");
	for (i = 0; i < client->count; i++) {
		int calls;

		copy = &client->copies[i];
		calls = atomic_read(&copy->calls);
		lost += !calls;
		twice += calls > 1;
		if (calls && copy->result != DMA_TRANS_NOERROR) {
			failed++;
			seq_buf_printf(&report, "%u,", i);
		} else if (calls) {
			good += copy->same;
			lies += !copy->same;
		}
		if (calls) {
			disorder += last && (copy->cookie < last->cookie) !=
				    (copy->order < last->order);
			last = copy;
		}
		if (copy->cookie > 0 && status_of(client, copy) == DMA_COMPLETE)
			status_lies += !!memcmp(copy->src, copy->dst, client->length);
	}
	seq_buf_printf(&report, " good=%u failed=%u lies=%u status_lies=%u", good, failed, lies,
		       status_lies);
	seq_buf_printf(&report, " lost=%u twice=%u disorder=%u", lost, twice, disorder);
}

static int set_run(const char *val, const struct kernel_param *kp)
{
	char name[16], channel[20];
	unsigned int count, length, i;
	const struct mode *mode = NULL;
	struct client *client;
	int ret;

	seq_buf_init(&report, text, sizeof(text));
	if (sysfs_streq(val, "drop")) {
		if (!held || dropped)
			return -ENOENT;
		client = held;
		held = NULL;
		seq_buf_puts(&report, "drop");
		wait_all(client);
		seq_buf_printf(&report, " prepare=%d",
			       prepare(&client->copies[0], client->length, DMA_PREP_INTERRUPT));
		report_copies(client);
		if (!close_channel(client))
			return -EBUSY;
		for (i = 0; i < client->count; i++)
			memset(client->copies[i].dst, FILL, client->length);
		dropped = client;
		return 0;
	}
	if (sysfs_streq(val, "late")) {
		if (!dropped)
			return -ENOENT;
		report_late(dropped);
		free_copies(dropped);
		dropped = NULL;
		return 0;
	}
	if (sscanf(val, "%15s %19s %u %u", name, channel, &count, &length) != 4)
		return -EINVAL;
	if (!count || count > MOST_COPIES || !length || length > MOST_LENGTH || held)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(modes[i].name, name))
			mode = &modes[i];
	if (!mode)
		return -EINVAL;

	client = open_client(channel, count, length);
	if (IS_ERR(client))
		return PTR_ERR(client);
	seq_buf_puts(&report, name);
	ret = mode->run(client);
	if (client != held)
		report_copies(client);
	if (client != held)
		close_client(client);
	return ret;
}

static int get_run(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", seq_buf_str(&report));
}

static const struct kernel_param_ops run_ops = {
	.set = set_run,
	.get = get_run,
};
module_param_cb(run, &run_ops, NULL, 0600);
MODULE_PARM_DESC(run, "MODE CHANNEL COUNT LENGTH, drop or late; reads as what was seen");

static int __init client_init(void)
{
	seq_buf_init(&report, text, sizeof(text));
	return 0;
}

static void __exit client_exit(void)
{
	if (held)
		close_client(held);
	if (dropped)
		free_copies(dropped);
}

module_init(client_init);
module_exit(client_exit);
MODULE_DESCRIPTION("Client of dmaengine that tests drivers");
MODULE_LICENSE("GPL");
