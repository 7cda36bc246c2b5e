"""Two hundred containers come and go: nothing of them is left anywhere. 30 s."""
import concurrent.futures

from lab import wait_for

COUNT = 200


def test_two_hundred_times(node):
    """Interfaces, addresses, routes, files, the forwarder's tables and flows, descriptors of agent and forwarder: as
    before. Some of the containers send, so that there are flows to be removed."""
    containers = [node.container(f"t{number}") for number in range(8)]
    far = node.container("far")
    address = node.add(far)["ips"][0]["address"].split("/")[0]

    def again(container, numbers):
        for number in numbers:
            result = node.add(container)
            if number % 5 == 0:
                assert container.ping(address, count=1), number
            node.delete(container, node.configuration(prevResult=result))

    def all_again(count):
        with concurrent.futures.ThreadPoolExecutor(len(containers)) as pool:
            list(pool.map(lambda one: again(one, range(count // len(containers))), containers))

    all_again(16)
    before = node.inventory()
    all_again(COUNT)
    left = {}

    def is_clean():
        """The kernel is given some sockets back in the background, and flows age as all do; ICMP's are idle for 15 s."""
        after = node.inventory()
        left.clear()
        left.update({what: sorted(after[what] - before[what])[:4] for what in after if after[what] - before[what]})
        return not left

    try:
        wait_for(is_clean, 60, "everything goes")
    except AssertionError:
        assert left == {}, left
        raise
